package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
	"qatplugin/qat"
)

// patient is what the mode answers in a test; the zero value is well.
type patient struct {
	loop, look, kernel error
	stuck              bool
}

func (p patient) CheckEventLoop(ctx context.Context) error {
	if p.stuck {
		<-ctx.Done()
		return errors.New("it does not turn")
	}
	return p.loop
}
func (p patient) CheckFirstLook(context.Context) error   { return p.look }
func (p patient) CheckKernelHeard(context.Context) error { return p.kernel }

func TestHealthEndpointsSayWhatIsWellAndWhatIsNot(t *testing.T) {
	well := func(context.Context) error { return nil }
	alone := func(context.Context) error {
		return errors.New("qat.intel.com/cy: the kubelet follows the list no longer")
	}
	for name, tt := range map[string]struct {
		patient    patient
		registered func(context.Context) error
		path       string
		status     int
		body       string
	}{
		"alive":              {patient{}, alone, "/livez", 200, "ok"},
		"alive though deaf":  {patient{kernel: errors.New("deaf")}, alone, "/livez?verbose", 200, "[+]event-loop ok\nlivez check passed\n"},
		"not alive":          {patient{loop: errors.New("it does not turn")}, well, "/livez", 500, "[-]event-loop failed: it does not turn\nlivez check failed\n"},
		"ready":              {patient{}, well, "/readyz", 200, "ok"},
		"ready, each check":  {patient{}, well, "/readyz?verbose", 200, "[+]event-loop ok\n[+]first-look ok\n[+]kernel-heard ok\n[+]registered ok\nreadyz check passed\n"},
		"verbose with value": {patient{}, well, "/livez?verbose=true", 200, "[+]event-loop ok\nlivez check passed\n"},
		"not ready": {patient{look: errors.New("no sysfs"), kernel: errors.New("deaf")}, alone, "/readyz", 500, "[+]event-loop ok\n[-]first-look failed: no sysfs\n" +
			"[-]kernel-heard failed: deaf\n[-]registered failed: qat.intel.com/cy: the kubelet follows the list no longer\nreadyz check failed\n"},
		"nothing else": {patient{}, well, "/metrics", 404, "404 page not found\n"},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			healthHandler(tt.patient, tt.registered).ServeHTTP(w, httptest.NewRequest("GET", tt.path, nil))
			if diff := cmp.Diff([]any{tt.status, tt.body}, []any{w.Code, w.Body.String()}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	w := httptest.NewRecorder()
	healthHandler(patient{}, well).ServeHTTP(w, httptest.NewRequest("GET", "/livez", nil))
	for name, want := range map[string]string{"Cache-Control": "no-store", "Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	w = httptest.NewRecorder()
	healthHandler(patient{}, well).ServeHTTP(w, httptest.NewRequest("POST", "/livez", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST is answered with %d, want 405", w.Code)
	}
}

func TestAStuckLoopMakesAProbeWaitForALimitedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started, w := time.Now(), httptest.NewRecorder()
		healthHandler(patient{stuck: true}, func(context.Context) error { return nil }).ServeHTTP(w, httptest.NewRequest("GET", "/livez", nil))
		if w.Code != 500 || time.Since(started) != checkTimeout {
			t.Errorf("status %d after %v, want 500 after %v", w.Code, time.Since(started), checkTimeout)
		}
	})
}

// An address that somebody else has ends nothing: it is taken when it is free.
func TestAnAddressThatIsTakenIsWaitedFor(t *testing.T) {
	log := captureLog(t)
	synctest.Test(t, func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		opened, ended := make(chan net.Addr, 1), make(chan struct{})
		go func() {
			defer close(ended)
			serveHealth(ctx, taken.Addr().String(), http.NotFoundHandler(), func(a net.Addr) { opened <- a })
		}()
		time.Sleep(10 * time.Minute)
		klog.Flush()
		var waits []string
		for _, line := range log.with("Cannot serve /livez and /readyz") {
			_, wait, _ := strings.Cut(strings.TrimSpace(line), "after=")
			waits = append(waits, wait)
		}
		waits = slices.Compact(waits) // klog writes an error once for each severity, and the longest lasts
		if diff := cmp.Diff([]string{`"1s"`, `"2s"`, `"4s"`, `"8s"`, `"16s"`, `"32s"`, `"1m0s"`}, waits); diff != "" {
			t.Errorf("waits (-want +got):\n%s", diff)
		}
		if err := taken.Close(); err != nil {
			t.Fatal(err)
		}
		if a := <-opened; a.String() != taken.Addr().String() {
			t.Errorf("serves %v, want %v", a, taken.Addr())
		}
		cancel()
		<-ended
	})
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestThePluginServesItsHealthAtTheAddress(t *testing.T) {
	for _, mode := range []string{qat.ModeDPDK, qat.ModeKernel} {
		t.Run(mode, func(t *testing.T) {
			log := captureLog(t)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan int, 1)
			args := []string{"-mode", mode, "-sysfs-root", t.TempDir(), "-dev-root", t.TempDir(), "-kubelet-dir", t.TempDir(), "-adf-ctl", "true", "-health-address", "127.0.0.1:0"}
			go func() { ended <- run(ctx, append(args, "-logtostderr=false"), io.Discard, io.Discard) }()
			address := regexp.MustCompile(`"Serving /livez and /readyz" address="([^"]+)"`)
			found := log.await(t, address)
			if status, body := get(t, fmt.Sprintf("http://%s/livez?verbose", found[1])); status != 200 {
				t.Errorf("/livez: %d %s", status, body)
			}
			if status, body := get(t, fmt.Sprintf("http://%s/readyz?verbose", found[1])); !strings.Contains(body, "kernel-heard ok") {
				t.Errorf("/readyz on an ordinary directory: %d %s", status, body)
			}
			cancel()
			if code := <-ended; code != 0 {
				t.Errorf("exit status %d, want 0", code)
			}
			if _, err := net.Dial("tcp", found[1]); err == nil {
				t.Error("the address is still served")
			}
		})
	}
}

// Ready is what the kubelet holds, and alive is the process alone.
func TestThePluginIsReadyWhenTheKubeletHasItsList(t *testing.T) {
	log, host, dir := captureLog(t), lookalike.Start(t), t.TempDir()
	for _, err := range []error{
		host.LoadDriver("vfio-pci"),
		host.AddPF(lookalike.PF{Address: "0000:6b:00.0", Services: "sym;asym"}),
		host.AddVF(lookalike.VF{Address: "0000:6b:00.1", PF: "0000:6b:00.0"}),
		host.Bind("0000:6b:00.1", "vfio-pci"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	args := []string{"-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir, "-logtostderr=false", "-health-address", "127.0.0.1:0"}
	go func() { ended <- run(ctx, args, io.Discard, io.Discard) }()
	defer cancel()
	address := log.await(t, regexp.MustCompile(`"Serving /livez and /readyz" address="([^"]+)"`))[1]
	log.await(t, regexp.MustCompile(`"List changed" resource="cy"`))
	status, body := get(t, "http://"+address+"/readyz")
	if want := "[-]registered failed: qat.intel.com/cy"; status != 500 || !strings.Contains(body, want) {
		t.Errorf("without a kubelet: %d %s, want 500 and %q", status, body, want)
	}
	if status, body := get(t, "http://"+address+"/livez"); status != 200 {
		t.Errorf("/livez without a kubelet: %d %s", status, body)
	}
	kubelet, err := kubelettest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer kubelet.Stop()
	log.await(t, regexp.MustCompile(`"Registered with the kubelet"`))
	limit, cancelLimit := context.WithTimeout(ctx, 20*time.Second)
	defer cancelLimit()
	if _, err := kubelet.WaitList(limit, "qat.intel.com/cy", func(l kubelettest.List) bool { return len(l.Devices) == 1 }); err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, "http://"+address+"/readyz"); status != 200 {
		t.Errorf("with a kubelet that follows the list: %d %s", status, body)
	}
	silent, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("exit status %d, want 0", code)
	}
	mustHaveEnded(t, silent)
}

// A plugin that fails does not stay for the sake of its health.
func TestAPluginThatFailsServesItsHealthNoLonger(t *testing.T) {
	dir := "/" + strings.Repeat("x", 200) // too long for a socket (unix(7))
	args := []string{"-sysfs-root", t.TempDir(), "-dev-root", t.TempDir(), "-kubelet-dir", dir, "-logtostderr=false", "-health-address", "127.0.0.1:0"}
	captureLog(t)
	ended := make(chan int, 1)
	go func() { ended <- run(t.Context(), args, io.Discard, io.Discard) }()
	select {
	case code := <-ended:
		if code != 1 {
			t.Errorf("exit status %d, want 1", code)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
}

func TestVersionIsPrinted(t *testing.T) {
	var stdout strings.Builder
	if code := run(t.Context(), []string{"-version"}, &stdout, io.Discard); code != 0 || !strings.HasPrefix(stdout.String(), "qat_plugin devel go") {
		t.Errorf("exit status %d, %q", code, stdout.String())
	}
}
