// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
	"qatplugin/kubeletapi/probe"
	"qatplugin/qat"
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
			w := answer(probe.Handler(healthChecks(tt.checker, tt.registered)), "GET", tt.path)
			if diff := cmp.Diff([]any{tt.status, tt.body}, []any{w.Code, w.Body.String()}); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
	w := answer(probe.Handler(healthChecks(fakeChecker{}, passes)), "GET", "/livez")
	for name, want := range map[string]string{
		"Cache-Control":          "no-store",
		"Content-Type":           "text/plain; charset=utf-8",
		"X-Content-Type-Options": "nosniff",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	w = answer(probe.Handler(healthChecks(fakeChecker{}, passes)), "POST", "/livez")
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d, want 405", w.Code)
	}
}

func TestCheckOfAStuckEventLoopTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := time.Now()
		w := answer(probe.Handler(healthChecks(fakeChecker{stuck: true}, passes)), "GET", "/livez")
		const want = 3 * time.Second // shorter than the timeout of the probes in deployments/
		if w.Code != 500 || time.Since(asked) != want {
			t.Errorf("status %d after %v, want 500 after %v", w.Code, time.Since(asked), want)
		}
	})
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return response.StatusCode, string(text)
}

// healthAddress waits until the program serves its health, and returns the address.
func (p *program) healthAddress() string {
	p.t.Helper()
	return p.log.await(p.t, `"Serving /livez and /readyz" address="([^"]+)"`)[1]
}

func TestHealthIsServedInEachMode(t *testing.T) {
	for _, mode := range []string{qat.ModeDPDK, qat.ModeKernel} {
		t.Run(mode, func(t *testing.T) {
			p := start(t, "-mode", mode, "-sysfs-root", t.TempDir(), "-dev-root", t.TempDir(),
				"-kubelet-dir", t.TempDir(), "-adf-ctl", "true", "-health-address", "127.0.0.1:0")
			address := p.healthAddress()
			if status, body := get(t, "http://"+address+"/livez?verbose"); status != 200 {
				t.Errorf("/livez: %d %s", status, body)
			}
			if status, body := get(t, "http://"+address+"/readyz?verbose"); !strings.Contains(body, "kernel-heard ok") {
				t.Errorf("/readyz on an ordinary directory: %d %s", status, body)
			}
			p.stop()
			if _, err := net.Dial("tcp", address); err == nil {
				t.Error("the address is served after the program has ended")
			}
		})
	}
}

// The program is ready when the kubelet has its lists, and live without a kubelet.
func TestReadyWhenTheKubeletHasTheList(t *testing.T) {
	host, dir := lookalike.Start(t), t.TempDir()
	addVF(t, host)
	must(t, host.Bind(vf, "vfio-pci"))
	p := start(t, "-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir,
		"-health-address", "127.0.0.1:0")
	address := p.healthAddress()
	p.log.await(t, `"List changed" resource="cy"`)
	status, body := get(t, "http://"+address+"/readyz")
	want := "[-]registered failed: kubelet.sock not found in " + dir
	if status != 500 || !strings.Contains(body, want) {
		t.Errorf("/readyz without a kubelet: %d %s, want 500 and %q", status, body, want)
	}
	if status, body := get(t, "http://"+address+"/livez"); status != 200 {
		t.Errorf("/livez without a kubelet: %d %s", status, body)
	}
	kubelet, err := kubelettest.Start(dir)
	must(t, err)
	defer kubelet.Stop()
	p.log.await(t, `"Registered with the kubelet"`)
	awaitVF(t, kubelet)
	if status, body := get(t, "http://"+address+"/readyz"); status != 200 {
		t.Errorf("/readyz with a kubelet that has the list: %d %s", status, body)
	}
	silent, err := net.Dial("tcp", address)
	must(t, err)
	defer silent.Close()
	p.stop()
	must(t, silent.SetReadDeadline(time.Now().Add(time.Second))) // far more than it takes
	if _, err := silent.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("reading from a connection without a request: %v, want EOF", err)
	}
}

func TestUnusedFlagIsLogged(t *testing.T) {
	p := start(t, "-mode", "kernel", "-steal", "-sysfs-root", t.TempDir(), "-dev-root", t.TempDir(),
		"-kubelet-dir", t.TempDir(), "-adf-ctl", "true")
	defer p.stop()
	p.log.await(t, `"A flag has no effect in this mode" flag="-steal" mode="kernel"`)
}

func TestForceWithoutRulesIsLogged(t *testing.T) {
	p := start(t, "-provisioning-force", "-sysfs-root", t.TempDir(), "-dev-root", t.TempDir(),
		"-kubelet-dir", t.TempDir())
	defer p.stop()
	p.log.await(t, `"-provisioning-force has no effect without -provisioning-dir"`)
}

// The health server must not keep a program alive that fails.
func TestProgramThatFailsExits(t *testing.T) {
	dir := "/" + strings.Repeat("x", 200) // too long for a socket (unix(7))
	p := start(t, "-sysfs-root", t.TempDir(), "-dev-root", t.TempDir(), "-kubelet-dir", dir,
		"-health-address", "127.0.0.1:0")
	defer p.cancel()
	select {
	case status := <-p.status:
		if status != 1 {
			t.Errorf("exit status %d, want 1", status)
		}
	case <-time.After(timeout):
		t.Fatal("the program does not exit")
	}
}
