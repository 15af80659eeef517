// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
	"qatplugin/kubeletapi/kubelettest"
	"qatplugin/qat"
)

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
func (p *running) healthAddress() string {
	p.t.Helper()
	return p.log.Await(p.t, `"Serving /livez and /readyz" address="([^"]+)"`)[1]
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
	p.log.Await(t, `"List changed" resource="cy"`)
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
	p.log.Await(t, `"Registered with the kubelet"`)
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
	p.log.Await(t, `"A flag has no effect in this mode" flag="-steal" mode="kernel"`)
}

func TestForceWithoutRulesIsLogged(t *testing.T) {
	p := start(t, "-provisioning-force", "-sysfs-root", t.TempDir(), "-dev-root", t.TempDir(),
		"-kubelet-dir", t.TempDir())
	defer p.stop()
	p.log.Await(t, `"-provisioning-force has no effect without -provisioning-dir"`)
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
