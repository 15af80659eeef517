// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
)

// runningProgram is a program whose main calls Main. Its flag set has a flag of its own.
type runningProgram struct {
	t      *testing.T
	cancel context.CancelFunc
	status chan int
	log    *logRecorder
}

func newFlags(output io.Writer) *flag.FlagSet {
	flags := flag.NewFlagSet("colors", flag.ContinueOnError)
	flags.SetOutput(output)
	flags.String("dir", "/tmp/colors", "a flag of the program")
	return flags
}

// runMain runs Main in this process and returns the exit status.
func runMain(
	ctx context.Context, flags *flag.FlagSet, args []string, namespace string, plugin Plugin, opts []Option,
) int {
	p, status := newProgram(flags, args, namespace, plugin, opts)
	if p == nil {
		return status
	}
	return p.run(ctx)
}

func startMain(t *testing.T, plugin Plugin, opts []Option, args ...string) *runningProgram {
	t.Helper()
	r := &runningProgram{t: t, status: make(chan int, 1), log: newLogRecorder()}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(klog.NewContext(context.Background(), r.log.logger()))
	go func() { r.status <- runMain(ctx, newFlags(io.Discard), args, namespace, plugin, opts) }()
	return r
}

func (r *runningProgram) wantStatus(want int) {
	r.t.Helper()
	select {
	case got := <-r.status:
		if got != want {
			r.t.Errorf("exit status %d, want %d:\n%s", got, want, r.log)
		}
	case <-time.After(testTimeout):
		r.t.Fatal("the program does not end")
	}
}

// get sends a request for a path to the health address.
func (r *runningProgram) get(path string) (status int, body string) {
	r.t.Helper()
	r.log.await(r.t, "Serving /livez and /readyz")
	address := regexp.MustCompile(`"address"="([^"]+)"`).FindStringSubmatch(r.log.String())[1]
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + address + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func TestHelpOfMainShowsAllFlags(t *testing.T) {
	var out bytes.Buffer
	if got := runMain(t.Context(), newFlags(&out), []string{"-h"}, namespace, newFakePlugin(), nil); got != 0 {
		t.Errorf("exit status %d, want 0", got)
	}
	for _, name := range []string{"dir", "v", "vmodule", "kubelet-dir", "use-cdi", "cdi-dir", "health-address"} {
		if !strings.Contains(out.String(), "  -"+name) {
			t.Errorf("-%s is missing:\n%s", name, &out)
		}
	}
	if want := `default "/var/lib/kubelet/device-plugins")`; !strings.Contains(out.String(), want) {
		t.Errorf("the help does not contain %s:\n%s", want, &out)
	}
}

func TestMainRejectsInvalidFlags(t *testing.T) {
	for arg, want := range map[string]string{
		"-nope":              "-nope",
		"-v=x":               `invalid value "x" for flag -v`,
		"-use-cdi=maybe":     `invalid boolean value "maybe" for -use-cdi`,
		"-health-address=x":  `invalid value "x" for flag -health-address: must be HOST:PORT`,
		"-kubelet-dir=":      `invalid kubelet directory ""`,
		"-use-cdi -cdi-dir=": `invalid CDI directory ""`,
	} {
		var out bytes.Buffer
		args := strings.Fields(arg)
		if got := runMain(t.Context(), newFlags(&out), args, namespace, newFakePlugin(), nil); got != 2 {
			t.Errorf("%s: exit status %d, want 2", arg, got)
		}
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: no %q in:\n%s", arg, want, &out)
		}
	}
}

// readyPlugin is a fakePlugin that is ready or not.
type readyPlugin struct {
	*fakePlugin
	unready atomic.Bool
}

func (p *readyPlugin) CheckReady(context.Context) error {
	if p.unready.Load() {
		return errors.New("no paint")
	}
	return nil
}

func TestMainServesProbesUntilItIsStopped(t *testing.T) {
	dir, p := kubeletDir(t), &readyPlugin{fakePlugin: newFakePlugin()}
	r := startMain(t, &wrapper{Plugin: p}, nil, "-kubelet-dir", dir, "-health-address", "127.0.0.1:0")
	p.publish(tree(t, nil, "yellow", "1"))
	if status, body := r.get("/livez"); status != 200 || body != "ok" {
		t.Errorf("/livez: %d %s", status, body)
	}
	want := "[-]registered failed: kubelet.sock not found in " + dir + "\n[+]plugin ok\nreadyz check failed\n"
	if status, body := r.get("/readyz"); status != 500 || body != want {
		t.Errorf("/readyz without a kubelet: %d %s", status, body)
	}
	waitIDs(t, startKubelet(t, dir), yellow, "1")
	r.log.await(t, "Registered with the kubelet")
	if status, body := r.get("/readyz?verbose"); status != 200 || !strings.Contains(body, "[+]plugin ok") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	p.unready.Store(true)
	if status, body := r.get("/readyz"); status != 500 || !strings.Contains(body, "[-]plugin failed: no paint") {
		t.Errorf("/readyz of an unready plugin: %d %s", status, body)
	}
	r.cancel()
	r.wantStatus(0)
	if n := r.log.count(`"error"=`); n != 0 {
		t.Errorf("%d errors in the log:\n%s", n, r.log)
	}
}

func TestMainEndsWithErrorOfWatch(t *testing.T) {
	p := newFakePlugin()
	r := startMain(t, p, nil, "-kubelet-dir", kubeletDir(t))
	p.publish(&devtree.Tree{})
	p.result <- errors.New("on fire")
	r.wantStatus(1)
	r.log.await(t, `"The device plugin failed" "error"="watch devices of color.example.com: on fire"`)
}

// TestFlagsOfMainOverrideOptions checks the flags that change what the options set.
func TestFlagsOfMainOverrideOptions(t *testing.T) {
	for name, tt := range map[string]struct {
		options []Option
		args    []string
		want    string // the CDI name
	}{
		"flags alone":   {nil, []string{"-use-cdi", "-cdi-dir=" + t.TempDir()}, "color.example.com/yellow=1"},
		"options alone": {[]Option{WithCDI(t.TempDir(), "paint")}, nil, "color.example.com/paint=1"},
		"class of the option": {
			[]Option{WithCDI("", "paint")}, []string{"-cdi-dir", t.TempDir()}, "color.example.com/paint=1",
		},
		"switched off": {[]Option{WithCDI(t.TempDir(), "")}, []string{"-use-cdi=false"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir, p := kubeletDir(t), newFakePlugin()
			k := startKubelet(t, dir)
			args := append(tt.args, "-kubelet-dir", dir)
			r := startMain(t, p, append(tt.options, WithKubeletDir("/nowhere")), args...)
			p.publish(tree(t, nil, "yellow", "1"))
			waitIDs(t, k, yellow, "1")
			answer, err := k.Allocate(t.Context(), yellow, []string{"1"})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, d := range answer.ContainerResponses[0].CdiDevices {
				got += d.Name
			}
			if got != tt.want {
				t.Errorf("CDI name %q, want %q", got, tt.want)
			}
			r.cancel()
			r.wantStatus(0)
		})
	}
}

// TestMainLeavesFlagsToTheProgram checks that flags that the program has registered itself, such as
// those of klog, are not registered again, which would panic.
func TestMainLeavesFlagsToTheProgram(t *testing.T) {
	dir := kubeletDir(t)
	flags := newFlags(io.Discard)
	klog.InitFlags(flags)
	own := flags.String("kubelet-dir", "", "a flag of the program")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	args := []string{"-kubelet-dir=mine"}
	got := runMain(ctx, flags, args, namespace, newFakePlugin(), []Option{WithKubeletDir(dir)})
	if got != 0 || *own != "mine" {
		t.Errorf("exit status %d, -kubelet-dir %q, want 0 and mine", got, *own)
	}
}
