// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"k8s.io/klog/v2"
)

// A Check is one health check.
type Check struct {
	Name string                          // in lower case, like "registered"
	Run  func(ctx context.Context) error // returns what is wrong; must return when ctx ends
}

// Handler returns the handler of /livez and /readyz. /livez fails if the process should be
// restarted, and /readyz if it cannot do its work. Both answer with status 200 or 500 and the same
// text as Kubernetes components: "ok", or a line for each check with ?verbose and after a failure.
// The checks of a request have three seconds together.
func Handler(live, ready []Check) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /livez", checks{"livez", live})
	mux.Handle("GET /readyz", checks{"readyz", ready})
	return mux
}

// checks is the handler of one path.
type checks struct {
	name string
	list []Check
}

// ServeHTTP runs the checks and answers with their results.
func (c checks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	var text strings.Builder
	var failed []string
	for _, check := range c.list {
		if err := check.Run(ctx); err != nil {
			failed = append(failed, check.Name)
			fmt.Fprintf(&text, "[-]%s failed: %v\n", check.Name, err)
		} else {
			fmt.Fprintf(&text, "[+]%s ok\n", check.Name)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case len(failed) > 0:
		klog.FromContext(ctx).V(2).Info("A health check failed", "path", "/"+c.name, "checks", failed)
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", text.String(), c.name)
	case r.URL.Query().Has("verbose"):
		fmt.Fprintf(w, "%s%s check passed\n", text.String(), c.name)
	default:
		fmt.Fprint(w, "ok")
	}
}
