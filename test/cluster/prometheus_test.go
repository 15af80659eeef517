// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// prometheusAddress is where the test's Prometheus listens, in the network namespace of the node.
const prometheusAddress = "127.0.0.1:9090"

// A prometheus is a running Prometheus that scrapes the plugin's pods.
type prometheus struct {
	t      *testing.T
	client *http.Client
}

// startPrometheus starts Prometheus with deployments/monitoring/scrape-config.yaml and rules.yaml.
// Only times are shortened: it scrapes each second, and alerts become active after 2 s. It also
// gets the address of the API server, because it runs on the node and not in a pod.
func startPrometheus(t *testing.T) *prometheus {
	t.Helper()
	work := t.TempDir()

	config := readYAML(t, deployment("monitoring/scrape-config.yaml"))
	config["global"] = map[string]any{"evaluation_interval": "500ms"}
	for _, scrape := range list(config["scrape_configs"]) {
		scrape["scrape_interval"], scrape["scrape_timeout"] = "1s", "1s"
		for _, discovery := range list(scrape["kubernetes_sd_configs"]) {
			discovery["kubeconfig_file"] = os.Getenv("KUBECONFIG")
		}
	}
	writeYAML(t, filepath.Join(work, "prometheus.yaml"), config)

	rules := readYAML(t, deployment("monitoring/rules.yaml"))
	for _, group := range list(rules["groups"]) {
		for _, rule := range list(group["rules"]) {
			if rule["for"] != nil {
				rule["for"] = "2s"
			}
		}
	}
	writeYAML(t, filepath.Join(work, "rules.yaml"), rules)

	var log bytes.Buffer
	cmd := exec.Command(os.Getenv("CLUSTER_PROMETHEUS"),
		"--config.file="+filepath.Join(work, "prometheus.yaml"),
		"--storage.tsdb.path="+filepath.Join(work, "data"),
		"--web.listen-address="+prometheusAddress)
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("prometheus: %v", err)
		}
		if t.Failed() {
			t.Logf("prometheus:\n%s", &log)
		}
	})
	p := &prometheus{t, &http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}}
	poll(t, func() error { return p.get("/-/ready", nil, nil) })
	return p
}

// get requests a path, and decodes the JSON of the answer.
func (p *prometheus) get(path string, query url.Values, answer any) error {
	u := url.URL{Scheme: "http", Host: prometheusAddress, Path: path, RawQuery: query.Encode()}
	response, err := p.client.Get(u.String())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return errors.Join(err, fmt.Errorf("%s: %s\n%s", &u, response.Status, text))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}

// query returns the labels of the result of a query.
func (p *prometheus) query(promql string) (labels []map[string]string) {
	p.t.Helper()
	var answer struct {
		Data struct {
			Result []struct{ Metric map[string]string }
		}
	}
	must(p.t, p.get("/api/v1/query", url.Values{"query": {promql}}, &answer))
	for _, r := range answer.Data.Result {
		labels = append(labels, r.Metric)
	}
	return labels
}

// awaitQuery waits until a query has a result, and returns the labels of the first one.
func (p *prometheus) awaitQuery(promql string) (labels map[string]string) {
	p.t.Helper()
	poll(p.t, func() error {
		results := p.query(promql)
		if len(results) == 0 {
			return fmt.Errorf("no result of %s", promql)
		}
		labels = results[0]
		return nil
	})
	return labels
}

// An alert is the name and labels of an alert. An expected one lacks the labels that are the same
// for all, and severity.
type alert map[string]string

func (a alert) String() string {
	words := []string{a["alertname"]}
	for _, label := range slices.Sorted(maps.Keys(a)) {
		if label != "alertname" {
			words = append(words, label+"="+a[label])
		}
	}
	return strings.Join(words, " ")
}

// firing returns the alerts that fire.
func (p *prometheus) firing() (alerts []alert) {
	p.t.Helper()
	for _, labels := range p.query(`ALERTS{alertstate="firing"}`) {
		alerts = append(alerts, labels)
	}
	return alerts
}

// awaitFiring waits until all of these alerts fire, and logs how long each took.
func (p *prometheus) awaitFiring(want ...alert) {
	p.t.Helper()
	began := time.Now()
	poll(p.t, func() error {
		firing := p.firing()
		var missing []alert
		for _, w := range want {
			if !slices.ContainsFunc(firing, w.isIn) {
				missing = append(missing, w)
			} else {
				p.t.Logf("%.1f s: %v", time.Since(began).Seconds(), w)
			}
		}
		if want = missing; len(missing) > 0 {
			return fmt.Errorf("alerts that do not fire: %v; those that do: %v", missing, firing)
		}
		return nil
	})
}

// isIn reports whether another alert has all labels of a.
func (a alert) isIn(other alert) bool {
	for label, value := range a {
		if other[label] != value {
			return false
		}
	}
	return true
}

// awaitQuiet waits until no alert of this name fires.
func (p *prometheus) awaitQuiet(name string) {
	p.t.Helper()
	poll(p.t, func() error {
		for _, a := range p.firing() {
			if a["alertname"] == name {
				return fmt.Errorf("%v still fires", a)
			}
		}
		return nil
	})
}

// list returns the elements of a list of objects in YAML.
func list(value any) (objects []map[string]any) {
	elements, _ := value.([]any)
	for _, e := range elements {
		object, _ := e.(map[string]any)
		objects = append(objects, object)
	}
	return objects
}

func readYAML(t *testing.T, file string) (object map[string]any) {
	t.Helper()
	must(t, yaml.Unmarshal([]byte(readFile(t, file)), &object))
	return object
}

func writeYAML(t *testing.T, file string, object map[string]any) {
	t.Helper()
	text, err := yaml.Marshal(object)
	must(t, err)
	must(t, os.WriteFile(file, text, 0o600))
}
