// SPDX-License-Identifier: Apache-2.0

package program

import (
	"bytes"
	"encoding/json"
	"log"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"
)

func TestMain(m *testing.M) {
	if os.Getenv(asLibraries) != "" {
		logAsLibraries(os.Args[1])
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// asLibraries is the environment variable with which the test binary logs as libraries do. gRPC
// must be told where to log before it is used, so this test needs a process of its own.
const asLibraries = "QAT_PROGRAM_TEST_LIBRARIES"

// logAsLibraries writes a message of package log and some of gRPC.
func logAsLibraries(format string) {
	logLibraries()
	if format == formatJSON {
		logAsJSON(os.Stderr)
	}
	log.Print("http: response is late")
	grpclog.Info("ready")
	grpclog.Warning("slow")
	grpclog.Error("no transport")
	klog.NewStandardLogger("WARNING").Print("http: panic serving") // for http.Server
}

func TestMessagesOfLibrariesAreLogged(t *testing.T) {
	for _, format := range []string{formatText, formatJSON} {
		t.Run(format, func(t *testing.T) {
			var text bytes.Buffer
			cmd := exec.Command(os.Args[0], format)
			cmd.Env, cmd.Stderr = append(os.Environ(), asLibraries+"=1"), &text
			if err := cmd.Run(); err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range strings.Lines(text.String()) {
				if format == formatJSON {
					line = withoutPlace(t, line)
				} else if _, after, found := strings.Cut(line, "] "); found {
					line = strings.TrimSuffix(after, "\n")
				}
				got = append(got, line)
			}
			want := map[string][]string{
				formatText: {
					`"Message of a library" library="log" text="http: response is late"`,
					`"Message of a library" library="grpc" text="no transport"`,
					`http: panic serving`,
				},
				formatJSON: {
					`{"library":"log","msg":"Message of a library","text":"http: response is late"}`,
					`{"library":"grpc","msg":"Message of a library","text":"no transport"}`,
					`{"msg":"http: panic serving"}`,
				},
			}[format]
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		})
	}
}

// withoutPlace returns a line of JSON without the time, the caller and the verbosity.
func withoutPlace(t *testing.T, line string) string {
	t.Helper()
	var values map[string]any
	if err := json.Unmarshal([]byte(line), &values); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	for _, key := range []string{"ts", "caller", "v"} {
		if values[key] == nil {
			t.Errorf("no %s: %s", key, line)
		}
		delete(values, key)
	}
	encoded, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}
