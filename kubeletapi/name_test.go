// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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

func TestResourceWithTooLongSocketPathIsSkipped(t *testing.T) {
	base := kubeletDir(t)
	dir := filepath.Join(base, strings.Repeat("d", maxSocketPath-len(socketOf(base, "yellow"))-len("/")))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := newFakePlugin()
	k := startKubelet(t, dir)
	r := run(t, dir, p)
	now := tree(t, nil, "yellow", "1") // its socket path has 107 bytes
	now = tree(t, now, "yellow2", "1") // its socket path has 108 bytes
	p.publish(now)
	waitIDs(t, k, yellow, "1")
	r.log.await(t, "has 108 bytes: at most 107 are allowed")
	p.publish(tree(t, now, "yellow", "1", "2"))
	waitIDs(t, k, yellow, "1", "2")
	if n := r.log.count("at most 107"); n != 1 {
		t.Errorf("%d log lines about it, want 1", n)
	}
}
