// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/lookalike"
	"qatplugin/internal/testlog"
	"qatplugin/kubeletapi/kubelettest"
)

// processLog runs the plugin as a process on a host whose kubelet lists a VF, and returns its log.
func processLog(t *testing.T, args ...string) (lines []string) {
	t.Helper()
	host, dir := lookalike.Start(t), t.TempDir()
	kubelet, err := kubelettest.Start(dir)
	must(t, err)
	defer kubelet.Stop()
	reader, writer, err := os.Pipe()
	must(t, err)
	cmd, wait := startProcess(t, writer, append(args,
		"-sysfs-root", host.Sysfs(), "-dev-root", host.Dev(), "-kubelet-dir", dir)...)
	must(t, writer.Close())
	log, copied := testlog.NewBuffer(), make(chan error, 1)
	go func() {
		_, err := io.Copy(log, reader)
		copied <- errors.Join(err, reader.Close())
	}()
	addVF(t, host)
	awaitVF(t, kubelet)
	log.Await(t, "Registered with the kubelet") // the kubelet has the list before the answer
	log.Await(t, "List changed")                // logged after the list is sent
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	must(t, wait())
	must(t, <-copied)
	return log.Lines()
}

// A jsonLine is a line of a log in JSON.
type jsonLine struct {
	Time      float64 `json:"ts"`
	Caller    string  `json:"caller"`
	Message   string  `json:"msg"`
	Verbosity *int    `json:"v"`
	Err       *string `json:"err"`
}

// parseJSON parses a line, which must be one object, and checks what each line has.
func parseJSON(t *testing.T, text string) (line jsonLine, values map[string]any) {
	t.Helper()
	for _, into := range []any{&line, &values} {
		if err := json.Unmarshal([]byte(text), into); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	isError := line.Verbosity == nil
	if line.Message == "" || strings.HasSuffix(line.Message, "\n") || isError != (line.Err != nil) && isError {
		t.Errorf("no message, a message with a newline, or an error without err: %s", text)
	}
	if age := time.Since(time.UnixMicro(int64(line.Time * 1000))); age < 0 || age > time.Minute {
		t.Errorf("written %v ago: %s", age, text)
	}
	return line, values
}

func TestJSONLogHasTheFormOfKubernetesComponents(t *testing.T) {
	place := regexp.MustCompile(`^[a-z_]+/[a-z_]+\.go:[0-9]+$`)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer busy.Close()
	count, failures := map[int]int{}, 0
	for _, text := range processLog(t, "-logging-format=json", "-v=4", "-health-address", busy.Addr().String()) {
		line, values := parseJSON(t, text)
		if dir, _, _ := strings.Cut(line.Caller, ":"); !place.MatchString(line.Caller) || !fileExists(t, dir) {
			t.Errorf("the caller is no file of the plugin: %s", text)
		}
		for key, value := range values {
			if _, isObject := value.(map[string]any); isObject {
				t.Errorf("the value of %s is an object: %s", key, text)
			}
		}
		if line.Verbosity == nil {
			failures++
			continue
		}
		count[*line.Verbosity]++
		switch line.Message {
		case "QAT device plugin started", "Registered with the kubelet":
			if *line.Verbosity != 0 {
				t.Errorf("v is not 0: %s", text)
			}
		case "Event":
			if *line.Verbosity != 4 || values["source"] != "uevent" && values["source"] != "inotify" {
				t.Errorf("v is not 4, or source is not a name: %s", text)
			}
		case "List changed":
			if after, err := time.ParseDuration(values["after"].(string)); err != nil || after <= 0 {
				t.Errorf("after is no duration: %s", text)
			}
		}
	}
	if count[0] == 0 || count[4] == 0 || failures == 0 {
		t.Errorf("lines by verbosity: %v, errors: %d", count, failures)
	}
}

// fileExists reports whether one package of the product has a file, which is named by its directory
// and its name.
func fileExists(t *testing.T, name string) bool {
	t.Helper()
	for _, pattern := range []string{"", "*/", "*/*/", "*/*/*/", "*/*/*/*/"} {
		files, err := filepath.Glob("../../" + pattern + name)
		must(t, err)
		if len(files) > 0 {
			return true
		}
	}
	return false
}

func TestJSONLogHasTheMessagesOfTheTextLog(t *testing.T) {
	quoted := regexp.MustCompile(`\] ("(?:[^"\\]|\\.)*")`)
	var text, asJSON []string
	for _, line := range processLog(t, "-v=1") {
		match := quoted.FindStringSubmatch(line)
		if match == nil {
			t.Fatalf("no message: %s", line)
		}
		var message string
		must(t, json.Unmarshal([]byte(match[1]), &message))
		text = append(text, message)
	}
	for _, line := range processLog(t, "-v=1", "-logging-format=json") {
		parsed, _ := parseJSON(t, line)
		asJSON = append(asJSON, parsed.Message)
	}
	for _, list := range []*[]string{&text, &asJSON} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	if diff := cmp.Diff(text, asJSON); diff != "" {
		t.Errorf("messages (-text +json):\n%s", diff)
	}
}

func TestVModuleSelectsMessagesOfTheJSONLog(t *testing.T) {
	files := map[string]bool{}
	for _, text := range processLog(t, "-logging-format=json", "-v=0", "-vmodule=loop=4") {
		if line, _ := parseJSON(t, text); line.Verbosity != nil && *line.Verbosity > 0 {
			file, _, _ := strings.Cut(line.Caller, ":")
			files[file] = true
		}
	}
	if diff := cmp.Diff(map[string]bool{"hostwatch/loop.go": true}, files); diff != "" {
		t.Errorf("files that log above verbosity 0 (-want +got):\n%s", diff)
	}
}
