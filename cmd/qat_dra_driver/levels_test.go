// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/testlog"
)

// messagesHeading begins the section of docs/logging.md with the messages of the DRA driver. The
// test of cmd/qat_plugin reads what comes before it.
const messagesHeading = "\n## Messages of the DRA driver\n"

// documentedLevels returns the table of docs/logging.md that maps messages to levels.
func documentedLevels(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile("../../docs/logging.md")
	must(t, err)
	_, section, found := strings.Cut(string(text), messagesHeading)
	if !found {
		t.Fatalf("docs/logging.md has no section %q", messagesHeading)
	}
	levels := map[string]int{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([0-9]) \\|").FindAllStringSubmatch(section, -1) {
		levels[row[1]], err = strconv.Atoi(row[2])
		must(t, err)
	}
	return levels
}

// sometimes are messages that depend on which of two processes is faster, and those of client-go.
var sometimes = []string{"A health check failed", "Feature gate default state", "Message of a library"}

// TestDocumentedMessagesAreLogged runs the driver through what the documented messages report, and
// compares the messages and their levels.
func TestDocumentedMessagesAreLogged(t *testing.T) {
	r := newRig(t)
	args := append(r.args(), "-logging-format=json", "-v=5", "-audit-interval=1s", "-health-address=127.0.0.1:0")
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	log := testlog.NewBuffer()
	cmd.Stderr = log
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	r.awaitReady()
	r.addVFs(2)
	r.awaitDevices(2)
	claim := r.allocate("web", "0000-6b-00-1")
	_, err := r.prepare(claim)
	must(t, err)
	r.unprepare(claim)
	must(t, r.host.SetAttr(pf, "qat/state", "down"))
	log.Await(t, "Device is unhealthy")
	log.Await(t, "Audited the host")
	must(t, r.kubelet.Restart())
	r.awaitRegistered(1)
	log.Await(t, `(?s)("msg":"The kubelet follows the health.*){2}`)
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	must(t, cmd.Wait())

	got := map[string]int{}
	for _, line := range log.Lines() {
		var l struct {
			Message   string `json:"msg"`
			Verbosity *int   `json:"v"`
		}
		must(t, json.Unmarshal([]byte(line), &l))
		if l.Verbosity != nil && !slices.Contains(sometimes, l.Message) {
			got[l.Message] = *l.Verbosity
		}
	}
	want := documentedLevels(t)
	delete(want, "A health check failed")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages and their levels (-docs/logging.md +observed):\n%s\nlog:\n%s", diff, log)
	}
}
