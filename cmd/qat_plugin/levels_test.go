// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/testlog"
	"qatplugin/kubeletapi/kubelettest"
)

// maxLevel is the highest level that docs/logging.md describes.
const maxLevel = 5

// documentedLevels returns the table of docs/logging.md that maps messages to levels. The messages
// of the DRA driver follow in a section of their own.
func documentedLevels(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile("../../docs/logging.md")
	must(t, err)
	section, _, _ := strings.Cut(string(text), "\n## Messages of the DRA driver\n")
	levels := map[string]int{}
	row := regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([0-9]) \\|")
	for _, row := range row.FindAllStringSubmatch(section, -1) {
		levels[row[1]], err = strconv.Atoi(row[2])
		must(t, err)
	}
	for _, message := range lastMessages {
		if _, ok := levels[message]; !ok {
			t.Fatalf("docs/logging.md does not have %q", message)
		}
	}
	return levels
}

// lastMessages are those that the plugin logs when it ends.
var lastMessages = []string{"Stopped the device plugin", "QAT device plugin ended"}

// sometimes are messages that depend on which of two processes is faster.
var sometimes = []string{"The kubelet is not ready", "Message of a library"}

// expected returns the messages that are documented for -v=verbosity, without those that the plugin
// logs sometimes.
func expected(verbosity int, documented map[string]int) map[string]int {
	levels := maps.Clone(documented)
	maps.DeleteFunc(levels, func(message string, level int) bool {
		return level > verbosity || slices.Contains(sometimes, message)
	})
	return levels
}

// observedLevels runs the plugin with -v=verbosity through what the documented messages report, and
// waits for them. It returns all messages that the plugin has logged, each with its level. Errors
// have none.
func observedLevels(t *testing.T, verbosity int, documented map[string]int) map[string]int {
	t.Helper()
	host, dir := lookalike.Start(t), t.TempDir()
	reader, writer, err := os.Pipe()
	must(t, err)
	cmd, wait := startProcess(t, writer, "-logging-format=json", fmt.Sprint("-v=", verbosity), "-audit-interval=1s",
		"-health-address=127.0.0.1:0", "-etc-root=/", "-status-socket", dir+"/none/status.sock",
		"-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir)
	must(t, writer.Close())
	log, copied := testlog.NewBuffer(), make(chan error, 1)
	go func() {
		_, err := io.Copy(log, reader)
		_ = reader.Close()
		copied <- err
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()

	log.Await(t, "Waiting for the kubelet's socket")
	address := log.Await(t, `"Serving /livez and /readyz","address":"([^"]+)"`)[1]
	if status, body := get(t, "http://"+address+"/readyz"); status == 200 {
		t.Errorf("/readyz without a kubelet: %d %s", status, body)
	}
	kubelet, err := kubelettest.Start(dir)
	must(t, err)
	defer kubelet.Stop()
	must(t, host.LoadDriver("4xxxvf"))
	must(t, host.AddPF(lookalike.PF{Address: pf, Services: "sym;asym"}))
	must(t, host.AddVF(lookalike.VF{Address: vf, PF: pf}))
	must(t, host.LoadDriver("vfio-pci")) // after the VF has got its kernel driver
	awaitVF(t, kubelet)
	_, err = kubelet.Allocate(ctx, resource, []string{vf})
	must(t, err)
	must(t, host.SetAttr(pf, "qat/state", "down"))
	log.Await(t, "Device is unhealthy")
	must(t, kubelet.Restart())
	awaitVF(t, kubelet)
	kubelet.Disconnect(resource)
	for message := range expected(verbosity, documented) {
		if !slices.Contains(lastMessages, message) {
			log.Await(t, `"msg":"`+regexp.QuoteMeta(message))
		}
	}
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	must(t, wait())
	must(t, <-copied)

	levels := map[string]int{}
	for _, text := range log.Lines() {
		if line, _ := parseJSON(t, text); line.Verbosity != nil {
			levels[line.Message] = *line.Verbosity
		}
	}
	return levels
}

func TestDocumentedMessagesAreThoseOfEachLevel(t *testing.T) {
	documented := documentedLevels(t)
	for verbosity := range maxLevel + 1 {
		t.Run(fmt.Sprint(verbosity), func(t *testing.T) {
			t.Parallel() // it mostly waits for an audit
			want, got := expected(verbosity, documented), observedLevels(t, verbosity, documented)
			for _, message := range sometimes {
				level, ok := documented[message]
				if observed, logged := got[message]; logged && ok && observed != level {
					t.Errorf("%q has level %d, and %d in docs/logging.md", message, observed, level)
				}
				delete(got, message)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("messages and their levels (-docs/logging.md +observed):\n%s", diff)
			}
		})
	}
}

func TestDocumentedLevelsAreCompletelyShown(t *testing.T) {
	text, err := os.ReadFile("../../docs/logging.md")
	must(t, err)
	for level := range maxLevel + 1 {
		if !strings.Contains(string(text), fmt.Sprintf("\n| %d | ", level)) {
			t.Errorf("docs/logging.md does not describe the level %d", level)
		}
	}
}
