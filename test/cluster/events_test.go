// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// TestNodeEvents installs the overlay events, and breaks a PF. The plugin reports that to the real
// API server, with the rights of its service account.
func TestNodeEvents(t *testing.T) {
	const name = "qat_plugin/overlays/events"
	n := openNode(t)
	checkRendered(t, name)
	h := startHost(t)
	must(t, h.addPF(cyPF, "sym;asym"))
	applyRBAC(t)
	in := n.install(name, h.hostPaths())
	in.checkPodSecurity("hostPath volumes", "seLinuxOptions")
	in.awaitReady()
	n.awaitResources(resources{cy: 16})

	began := time.Now()
	fail := func() { must(t, h.SetHeartbeat(cyPF, "-1")) } // one failed check
	warning := awaitNodeEvent(t, "QATDeviceUnhealthy", fail)
	t.Logf("Event %.1f s after the heartbeat failed: %s", time.Since(began).Seconds(), warning.Message)
	if warning.Type != "Warning" || !strings.Contains(warning.Message, cyPF) {
		t.Errorf("Event %+v", warning)
	}
	if text := kubectl(t, "describe", "node", nodeName); !strings.Contains(text, "QATDeviceUnhealthy") {
		t.Errorf("kubectl describe node does not show the Event:\n%s", text)
	}

	must(t, h.SetHeartbeat(cyPF, "0"))
	normal := awaitNodeEvent(t, "QATDeviceHealthy", func() {})
	if want := "QAT device " + cyPF + " (4xxx) is healthy again"; normal.Type != "Normal" || normal.Message != want {
		t.Errorf("Event %+v, want %q", normal, want)
	}

	// The same problem again is counted in the same Event.
	poll(t, func() error {
		fail()
		events, err := nodeEvents("QATDeviceUnhealthy")
		if err == nil && (len(events) != 1 || events[0].Series == nil || events[0].Series.Count != 2) {
			err = fmt.Errorf("Events %+v, want one that is counted twice", events)
		}
		return err
	})
	checkRights(t)
}

// applyRBAC applies the objects that the overlay events needs in another namespace, for a plugin in
// the namespace of the tests.
func applyRBAC(t *testing.T) {
	t.Helper()
	rbac := kubectl(t, "kustomize", deployment("qat_plugin/overlays/events/rbac"))
	file := filepath.Join(t.TempDir(), "rbac.yaml")
	rbac = strings.Replace(rbac, "namespace: qat\n", "namespace: "+pluginNamespace+"\n", 1)
	must(t, os.WriteFile(file, []byte(rbac), 0o600))
	kubectl(t, "apply", "--validate=strict", "-f", file)
	t.Cleanup(func() { kubectl(t, "delete", "-f", file) })
}

// nodeEvents returns the Events of the Node with a reason, as kubectl gets them.
func nodeEvents(reason string) ([]corev1.Event, error) {
	text, errs, err := tryKubectl("get", "events", "-n", "default", "-o", "json",
		"--field-selector", "involvedObject.kind=Node,involvedObject.name="+nodeName+",reason="+reason)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, errs)
	}
	var list corev1.EventList
	return list.Items, json.Unmarshal([]byte(text), &list)
}

// awaitNodeEvent waits for the only Event of the Node with a reason. It calls meanwhile again and
// again.
func awaitNodeEvent(t *testing.T, reason string, meanwhile func()) (event corev1.Event) {
	t.Helper()
	poll(t, func() error {
		meanwhile()
		events, err := nodeEvents(reason)
		if err == nil && len(events) != 1 {
			err = fmt.Errorf("%d Events %s of the Node, want one", len(events), reason)
		}
		if err == nil {
			event = events[0]
		}
		return err
	})
	return event
}

// checkRights checks that the service account may create and patch Events in the namespace default,
// and nothing else.
func checkRights(t *testing.T) {
	t.Helper()
	account := "--as=" + accountUser("intel-qat-plugin")
	groups := []string{"--as-group=system:serviceaccounts", "--as-group=system:serviceaccounts:" + pluginNamespace,
		"--as-group=system:authenticated"}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "events.events.k8s.io", "-n", "default"}, "yes"},
		{[]string{"patch", "events.events.k8s.io", "-n", "default"}, "yes"},
		{[]string{"get", "events.events.k8s.io", "-n", "default"}, "no"},
		{[]string{"delete", "events.events.k8s.io", "-n", "default"}, "no"},
		{[]string{"create", "events", "-n", "default"}, "no"},
		{[]string{"create", "events.events.k8s.io", "-n", pluginNamespace}, "no"},
		{[]string{"get", "secrets", "-n", "default"}, "no"},
		{[]string{"get", "nodes"}, "no"},
		{[]string{"patch", "nodes"}, "no"},
	} {
		got, _, _ := tryKubectl(slices.Concat([]string{"auth", "can-i"}, test.args, []string{account}, groups)...)
		if strings.TrimSpace(got) != test.want {
			t.Errorf("kubectl auth can-i %s: %q, want %s", strings.Join(test.args, " "), got, test.want)
		}
	}
	checkGrants(t, "intel-qat-plugin", "events.events.k8s.io [] [] [create patch]")
}

// checkGrants checks that a service account in the namespace of the plugin has these grants beyond
// those of any service account. A grant is a line of kubectl auth can-i --list.
func checkGrants(t *testing.T, account string, grants ...string) {
	t.Helper()
	rules := func(account string) []string {
		text := kubectl(t, "auth", "can-i", "--list", "--no-headers", "-n", "default",
			"--as="+accountUser(account), "--as-group=system:serviceaccounts",
			"--as-group=system:serviceaccounts:"+pluginNamespace, "--as-group=system:authenticated")
		var list []string
		for line := range strings.Lines(text) {
			list = append(list, strings.Join(strings.Fields(line), " "))
		}
		slices.Sort(list)
		return list
	}
	want := append(rules("default"), grants...)
	slices.Sort(want)
	if diff := cmp.Diff(want, rules(account)); diff != "" {
		t.Errorf("rules of the service account %s (-want +got)\n%s", account, diff)
	}
}

// accountUser returns the user name of a service account in the namespace of the plugin.
func accountUser(account string) string {
	return "system:serviceaccount:" + pluginNamespace + ":" + account
}
