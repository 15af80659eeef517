// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"bytes"
	"context"
	"errors"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"qatplugin/internal/measure"
)

// Metrics are the metrics of the API server at one time.
type Metrics map[string]*dto.MetricFamily

// Metrics reads the metrics of the API server.
func (c *ControlPlane) Metrics(ctx context.Context) (Metrics, error) {
	text, err := c.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(bytes.NewReader(text))
}

// Sum returns the sum of all values of a metric whose labels include these, given as names and
// values. The value of a histogram is the sum of its observations.
func (m Metrics) Sum(name string, labels ...string) (sum float64) {
	for _, metric := range m[name].GetMetric() {
		if !hasLabels(metric, labels) {
			continue
		}
		sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + metric.GetUntyped().GetValue() +
			metric.GetHistogram().GetSampleSum()
	}
	return sum
}

func hasLabels(m *dto.Metric, labels []string) bool {
	values := map[string]string{}
	for _, l := range m.GetLabel() {
		values[l.GetName()] = l.GetValue()
	}
	for i := 0; i+1 < len(labels); i += 2 {
		if values[labels[i]] != labels[i+1] {
			return false
		}
	}
	return true
}

// Usage is what a program uses.
type Usage struct {
	Resident int64         // bytes of memory at this time
	CPU      time.Duration // since Start
}

// APIServerUsage reads what the API server uses. The CPU time includes that of API servers that
// have ended.
func (c *ControlPlane) APIServerUsage() (Usage, error) {
	u, err := c.apiServer.usage()
	u.CPU += c.earlier
	return u, err
}

// EtcdUsage reads what etcd uses.
func (c *ControlPlane) EtcdUsage() (Usage, error) { return c.etcd.usage() }

func (p *process) usage() (Usage, error) {
	u, err1 := measure.UsageOf(p.cmd.Process.Pid)
	kib, err2 := measure.Resident(p.cmd.Process.Pid)
	return Usage{Resident: int64(kib) << 10, CPU: u.CPU}, errors.Join(err1, err2)
}
