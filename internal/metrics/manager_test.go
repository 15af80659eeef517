// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/internal/status"
	"qatplugin/kubeletapi"
	"qatplugin/kubeletapi/kubelettest"
)

// publisher is a plugin whose Trees the test publishes.
type publisher chan func(*devtree.Tree)

func (p publisher) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	p <- publish
	<-ctx.Done()
	return nil
}

// start runs a Manager with the metrics until the test ends. It returns the function that publishes
// a Tree whose change was caused by an event at that time.
func start(t *testing.T, m *Metrics, k *kubelettest.Kubelet, options ...kubeletapi.Option,
) (publish func(old, new *devtree.Tree, since time.Time)) {
	t.Helper()
	plugin := make(publisher, 1)
	manager := kubeletapi.NewManager(namespace, plugin, slices.Concat(options, []kubeletapi.Option{
		kubeletapi.WithKubeletDir(k.Dir()), kubeletapi.WithObserver(m),
	})...)
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), logr.Discard()))
	done := make(chan error, 1)
	go func() { done <- manager.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	toManager := <-plugin
	return func(old, new *devtree.Tree, since time.Time) {
		m.Publishing(old, new, since)
		toManager(new)
	}
}

// observations returns the number and the sum, in whole hours, of the measured times.
func observations(t *testing.T, m *Metrics) (count, hours int) {
	t.Helper()
	empty := &fakeSource{snapshot: &status.Snapshot{}}
	for _, s := range only(scrape(t, m.Handler(empty)), "qat_plugin_event_to_list_seconds") {
		name, text, _ := strings.Cut(s, " ")
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case strings.HasPrefix(name, "qat_plugin_event_to_list_seconds_count"):
			count += int(value)
		case strings.HasPrefix(name, "qat_plugin_event_to_list_seconds_sum"):
			hours += int(value / 3600)
		}
	}
	return count, hours
}

// await waits until so many times are measured, and compares their sum in hours.
func await(t *testing.T, m *Metrics, count, hours int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		n, sum := observations(t, m)
		if n == count && sum == hours {
			return
		}
		if n > count || time.Now().After(deadline) {
			t.Fatalf("%d times are measured, %d hours in all, want %d and %d", n, sum, count, hours)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestPublishedChangeIsMeasuredOnce checks the measurement with a Manager and a kubelet. The events
// are hours ago, so that each measured time shows which event it belongs to.
func TestPublishedChangeIsMeasuredOnce(t *testing.T) {
	hoursAgo := func(n int) time.Time { return time.Now().Add(-time.Duration(n) * time.Hour) }
	for _, tt := range []struct {
		name    string
		options func(t *testing.T) []kubeletapi.Option
	}{
		{"without CDI", func(*testing.T) []kubeletapi.Option { return nil }},
		{"with CDI", func(t *testing.T) []kubeletapi.Option {
			return []kubeletapi.Option{kubeletapi.WithCDI(t.TempDir(), "vf")}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, k := newMetrics(), kubelettest.New(t)
			publish := start(t, m, k, tt.options(t)...)
			wait := func(ids ...string) {
				t.Helper()
				if _, err := k.WaitDevices(t.Context(), cy, ids...); err != nil {
					t.Fatal(err)
				}
			}
			first := next(t, nil, "cy", "1")
			publish(nil, first, hoursAgo(1)) // the resource appears: there is no stream
			wait("1")
			second := next(t, first, "cy", "2")
			publish(first, second, hoursAgo(2))
			wait("1", "2")
			await(t, m, 1, 2)

			edited := &devtree.Device{ID: "2", Health: devtree.Healthy}
			edited.Env = map[string]string{"QAT": "2"} // which no list contains
			third := with(t, second, "cy", edited)
			publish(second, third, hoursAgo(300))
			waitFor(t, "no list is due", m, func(u *unsent) bool { return len(u.states) == 0 })
			fourth := next(t, third, "cy", "3")
			publish(third, fourth, hoursAgo(3))
			wait("1", "2", "3")
			await(t, m, 2, 2+3)

			fifth := next(t, fourth, "dc", "1") // dc appears, and cy is unchanged
			publish(fourth, fifth, hoursAgo(4))
			if _, err := k.WaitDevices(t.Context(), dc, "1"); err != nil {
				t.Fatal(err)
			}
			k.Stop()
			waitFor(t, "no stream is open", m, func(u *unsent) bool { return u.streams == 0 })
			sixth := next(t, fifth, "cy", "4")
			publish(fifth, sixth, hoursAgo(5)) // nobody receives the list
			if err := k.Restart(); err != nil {
				t.Fatal(err)
			}
			wait("1", "2", "3", "4")
			seventh := next(t, sixth, "cy", "5")
			publish(sixth, seventh, hoursAgo(6))
			wait("1", "2", "3", "4", "5")
			await(t, m, 3, 2+3+6)
		})
	}
}

// waitFor waits until the condition holds for each resource.
func waitFor(t *testing.T, what string, m *Metrics, holds func(*unsent) bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		all := true
		m.tracker.mu.Lock()
		for _, u := range m.tracker.resources {
			all = all && holds(u)
		}
		m.tracker.mu.Unlock()
		if all {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("timeout: ", what)
		}
	}
}
