// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"strings"
	"testing"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"pgregory.net/rapid"
)

func TestCheckNamespace(t *testing.T) {
	for _, tt := range []struct{ namespace, want string }{
		{"qat.intel.com", ""},
		{"intel", ""},
		{"a-b.c9.io", ""},
		{strings.Repeat("a", 244), ""},
		{"", "must be a DNS name"},
		{"qat/intel.com", "must be a DNS name"},
		{"Qat.intel.com", "must be a DNS name"},
		{"-qat.intel.com", "must be a DNS name"},
		{"qat..intel.com", "must be a DNS name"},
		{"qat_intel.com", "must be a DNS name"},
		{"requests.intel.com", "quota"},
		{"kubernetes.io", "reserves"},
		{"qat.kubernetes.io", "reserves"},
		{strings.Repeat("a", 245), "has 245 characters: at most 244 are allowed"},
	} {
		err := checkNamespace(tt.namespace)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("checkNamespace(%q) = %v, want %q", tt.namespace, err, tt.want)
		}
	}
}

// TestLongestNamesAreServed checks that a resource with the longest names that Kubernetes allows
// reaches the kubelet, beside one whose names differ from it only at the end.
func TestLongestNamesAreServed(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	long := strings.Repeat("n", maxNamespace-len(".example.com")) + ".example.com"
	name, other := strings.Repeat("x", 63), strings.Repeat("x", 62)+"y"
	runNamespace(t, long, dir, p)
	p.publish(tree(t, tree(t, nil, name, "1"), other, "2"))
	waitIDs(t, k, long+"/"+name, "1")
	waitIDs(t, k, long+"/"+other, "2")
	for _, socket := range sockets(t, dir) {
		if path := pluginapi.DevicePluginPath + socket; len(path) > 107 {
			t.Errorf("the kubelet's path of the socket has %d bytes, want at most 107: %s", len(path), path)
		}
	}
}

// TestNamesThatDifferOnlyInTheirSeparatorHaveOwnSockets checks that "a.example.com" with "b-c" and
// "a.example.com-b" with "c" are both served.
func TestNamesThatDifferOnlyInTheirSeparatorHaveOwnSockets(t *testing.T) {
	dir := kubeletDir(t)
	k := startKubelet(t, dir)
	for _, tt := range []struct{ namespace, resource string }{
		{"a.example.com", "b-c"},
		{"a.example.com-b", "c"},
	} {
		p := newFakePlugin()
		runNamespace(t, tt.namespace, dir, p)
		p.publish(tree(t, nil, tt.resource, "1"))
		waitIDs(t, k, tt.namespace+"/"+tt.resource, "1")
	}
}

func TestSocketName(t *testing.T) {
	long, qat := strings.Repeat("n", 70)+".com", "qat.accelerators.intel.com"
	for _, tt := range []struct{ dir, namespace, resource, want string }{
		{"/d", "qat.intel.com", "cy", "qat.intel.com-cy.sock"},
		{"/d", "qat.intel.com", "sym-dc", "qat.intel.com-sym-dc.sock"},
		// The hashes are the first 16 digits of: printf a.com-b/c | sha256sum
		{"/d", "a.com-b", "c", "a.com-b-c~6098a1044e4f6b7c.sock"},
		{"/d", long, "x", strings.Repeat("n", 51) + "-x~154cbc2edf3c328a.sock"},
		{"/d", "qat.intel.com", strings.Repeat("x", 63),
			"qat.intel.com-" + strings.Repeat("x", 39) + "~a1e624b8b945d819.sock"},
		// A directory with a longer path than the kubelet's leaves less room.
		{"/" + strings.Repeat("d", 79), qat, "cy", "q-cy~9457e9e06de6e9ea.sock"},
		{"/" + strings.Repeat("d", 83), qat, "cy", "~9457e9e06de6e9ea.sock"},
	} {
		got := socketName(tt.dir, tt.namespace, tt.resource)
		if got != tt.want {
			t.Errorf("socketName(%q, %q, %q) = %q, want %q", tt.dir, tt.namespace, tt.resource, got, tt.want)
		}
		for _, dir := range []string{tt.dir + "/", pluginapi.DevicePluginPath} {
			if len(dir+got) > 107 {
				t.Errorf("%s%s has %d bytes, want at most 107", dir, got, len(dir+got))
			}
		}
	}
}

// TestSocketNamesAreDistinct checks that no two resources have the same socket name.
func TestSocketNamesAreDistinct(t *testing.T) {
	word := rapid.StringMatching("[ab](-?[ab]){0,2}")
	name := rapid.Custom(func(t *rapid.T) string {
		return strings.Repeat(word.Draw(t, "word"), rapid.SampledFrom([]int{1, 1, 1, 9}).Draw(t, "times"))
	})
	rapid.Check(t, func(t *rapid.T) {
		type id struct{ namespace, resource string }
		a, b := id{name.Draw(t, "a"), name.Draw(t, "ra")}, id{name.Draw(t, "b"), name.Draw(t, "rb")}
		same := socketName("/d", a.namespace, a.resource) == socketName("/d", b.namespace, b.resource)
		if same != (a == b) {
			t.Fatalf("%v and %v: same socket: %t", a, b, same)
		}
	})
}
