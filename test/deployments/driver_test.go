// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"qatplugin/draapi/kubelettest"
	"qatplugin/internal/apitest"
	"qatplugin/internal/lookalike"
)

// testKubeletPaths checks that what the driver uses of the kubelet's directory has the same path in
// the container as on the host.
func testKubeletPaths(t *testing.T, p plugin, root string) {
	t.Helper()
	for _, dir := range []string{"plugins_registry", "plugins/" + driverName, "device-plugins"} {
		path := filepath.Join(root, dir)
		if m, onHost := p.mount(t, path); m == nil || m.ReadOnly || onHost != path {
			t.Errorf("%s is %q on the host, and writable: %v", path, onHost, m != nil && !m.ReadOnly)
		}
	}
}

// startDriver starts the DRA driver as the overlay does, on a look-alike host, with a kubelet and
// an API server, and waits until it is ready. It stops when the test ends.
func startDriver(t *testing.T, o overlay, host *lookalike.Host) *apitest.Server {
	t.Helper()
	p := o.plugin(t)
	kubelet := kubelettest.New(t)
	must(t, os.Mkdir(filepath.Join(kubelet.Root(), "device-plugins"), 0o750))
	server := apitest.New()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}}
	node.Status.NodeInfo.ContainerRuntimeVersion = "containerd://2.4.2"
	server.AddNode(node)
	api := httptest.NewServer(server)
	t.Cleanup(api.Close)
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], ` +
		`clusters: [{name: c, cluster: {server: "` + api.URL + `"}}]}`
	must(t, os.WriteFile(kubeconfig, []byte(text), 0o600))

	args, health, status := p.argsOn(t, map[string]string{"/sys": host.Sysfs(), "/dev": host.Dev()})
	args = append(args,
		"-kubelet-root="+kubelet.Root(),
		"-kubelet-dir="+filepath.Join(kubelet.Root(), "device-plugins"),
		"-cdi-dir="+t.TempDir(),
		"-kubeconfig="+kubeconfig)
	var env []string
	for _, e := range p.container(t).Env {
		if e.ValueFrom.FieldRef != nil {
			env = append(env, e.Name+"="+map[string]string{"NODE_NAME": node.Name, "POD_UID": "1234"}[e.Name])
		}
	}
	t.Cleanup(startProgram(t, o.program(t), env, args...))
	awaitReady(t, p, health, status)
	sockets, err := filepath.Glob(filepath.Join(kubelet.Root(), "plugins_registry", "*.sock"))
	must(t, err)
	if len(sockets) != 1 || !strings.Contains(sockets[0], "1234") {
		t.Errorf("sockets %q, want one with the UID of the pod", sockets)
	}
	return server
}
