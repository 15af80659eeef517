// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/kubeletapi/probe"
)

// fakeChecker is the plugin's part of the checks. The zero value passes them all.
type fakeChecker struct {
	eventLoop, firstLook, kernelHeard error
	stuck                             bool // the event loop does not answer
}

func (c fakeChecker) CheckEventLoop(ctx context.Context) error {
	if c.stuck {
		<-ctx.Done()
		return errors.New("it does not respond")
	}
	return c.eventLoop
}
func (c fakeChecker) CheckFirstLook(context.Context) error   { return c.firstLook }
func (c fakeChecker) CheckKernelHeard(context.Context) error { return c.kernelHeard }

func passes(context.Context) error { return nil }

// registered returns the check of a front.
func registered(run func(context.Context) error) probe.Check {
	return probe.Check{Name: "registered", Run: run}
}

// answer returns the handler's answer to a request.
func answer(h http.Handler, method, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w
}

func TestHealthEndpoints(t *testing.T) {
	unregistered := func(context.Context) error { return errors.New("no stream") }
	stuck, unread, missed := errors.New("stuck"), errors.New("no sysfs"), errors.New("no uevents")
	const (
		livezPassed  = "[+]event-loop ok\nlivez check passed\n"
		livezFailed  = "[-]event-loop failed: stuck\nlivez check failed\n"
		readyzPassed = "[+]event-loop ok\n[+]first-look ok\n[+]kernel-heard ok\n" +
			"[+]registered ok\nreadyz check passed\n"
		readyzFailed = "[+]event-loop ok\n[-]first-look failed: no sysfs\n[-]kernel-heard failed: no uevents\n" +
			"[-]registered failed: no stream\nreadyz check failed\n"
	)
	for name, tt := range map[string]struct {
		checker    fakeChecker
		registered func(context.Context) error
		path       string
		status     int
		body       string
	}{
		"live":               {fakeChecker{}, unregistered, "/livez", 200, "ok"},
		"live, no uevents":   {fakeChecker{kernelHeard: missed}, unregistered, "/livez?verbose", 200, livezPassed},
		"not live":           {fakeChecker{eventLoop: stuck}, passes, "/livez", 500, livezFailed},
		"not live, verbose":  {fakeChecker{eventLoop: stuck}, passes, "/livez?verbose", 500, livezFailed},
		"ready":              {fakeChecker{}, passes, "/readyz", 200, "ok"},
		"ready, verbose":     {fakeChecker{}, passes, "/readyz?verbose", 200, readyzPassed},
		"live, verbose=true": {fakeChecker{}, passes, "/livez?verbose=true", 200, livezPassed},
		"not ready": {
			fakeChecker{firstLook: unread, kernelHeard: missed}, unregistered, "/readyz", 500, readyzFailed,
		},
		"another path": {fakeChecker{}, passes, "/metrics", 404, "404 page not found\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w := answer(probe.Handler(HealthChecks(tt.checker, registered(tt.registered))), "GET", tt.path)
			if diff := cmp.Diff([]any{tt.status, tt.body}, []any{w.Code, w.Body.String()}); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
	w := answer(probe.Handler(HealthChecks(fakeChecker{}, registered(passes))), "GET", "/livez")
	for name, want := range map[string]string{
		"Cache-Control":          "no-store",
		"Content-Type":           "text/plain; charset=utf-8",
		"X-Content-Type-Options": "nosniff",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	w = answer(probe.Handler(HealthChecks(fakeChecker{}, registered(passes))), "POST", "/livez")
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d, want 405", w.Code)
	}
}

func TestCheckOfAStuckEventLoopTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := time.Now()
		w := answer(probe.Handler(HealthChecks(fakeChecker{stuck: true})), "GET", "/livez")
		const want = 3 * time.Second // shorter than the timeout of the probes in deployments/
		if w.Code != 500 || time.Since(asked) != want {
			t.Errorf("status %d after %v, want 500 after %v", w.Code, time.Since(asked), want)
		}
	})
}
