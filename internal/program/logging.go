// SPDX-License-Identifier: Apache-2.0

package program

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/grpclog"
	"k8s.io/klog/v2"
)

// The values of -logging-format, as components of Kubernetes have them
// (k8s.io/component-base/logs/api/v1/options.go).
const (
	formatText = "text"
	formatJSON = "json"
)

// logAsJSON makes klog write each message to w as a line of JSON. klog still decides by -v and
// -vmodule what is logged.
func logAsJSON(w io.Writer) {
	klog.SetLogger(logr.FromSlogHandler(slog.NewJSONHandler(w, &slog.HandlerOptions{
		AddSource:   true,
		Level:       slog.Level(math.MinInt), // klog has decided
		ReplaceAttr: likeKubernetes,
	})))
}

// likeKubernetes gives an attribute the key and the form that it has in the logs of Kubernetes
// components (k8s.io/component-base/logs/json/json.go, NewJSONLogger):
//
//   - ts: the time in milliseconds since 1970, with a fraction
//   - caller: the last directory and the file, and the line
//   - msg: the message
//   - v: the verbosity; errors have none
//   - err: the error, of errors that have one
//   - the key/value pairs; durations and values with a method String are strings
func likeKubernetes(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.MessageKey { // klog ends the lines of a standard logger with a newline
		return slog.String(a.Key, strings.TrimSuffix(a.Value.String(), "\n"))
	}
	switch value := a.Value.Any().(type) {
	case time.Time:
		if a.Key == slog.TimeKey {
			return slog.Float64("ts", float64(value.UnixNano())/float64(time.Millisecond))
		}
	case slog.Level: // logr derives it from the verbosity
		if value > slog.LevelInfo {
			return slog.Attr{}
		}
		return slog.Int("v", -int(value))
	case *slog.Source:
		dir, file := path.Split(value.File)
		return slog.String("caller", path.Join(path.Base(dir), file)+":"+strconv.Itoa(value.Line))
	case time.Duration:
		return slog.String(a.Key, value.String())
	case error: // slog calls its method Error
	case fmt.Stringer:
		return slog.String(a.Key, value.String())
	}
	return a
}

// logLibraries makes klog write what libraries write: net/http, by way of package log, and gRPC. By
// default, they write to descriptor 2 in formats of their own, and block when nobody reads it.
// logLibraries must be called before gRPC is used.
func logLibraries() {
	log.SetFlags(0)
	log.SetOutput(libraryLog{name: "log"})
	// The end of a connection is a warning of gRPC, also when the kubelet restarts.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, libraryLog{"grpc", 4}, libraryLog{"grpc", 0}))
}

const libraryMessage = "Message of a library"

// A libraryLog passes the lines that a library writes on to klog.
type libraryLog struct {
	name      string
	verbosity klog.Level
}

func (l libraryLog) Write(line []byte) (int, error) {
	text := bytes.TrimSpace(line)
	for _, prefix := range []string{"WARNING: ", "ERROR: ", "FATAL: "} { // gRPC puts the time before it
		if _, rest, found := bytes.Cut(text, []byte(prefix)); found && l.name == "grpc" {
			text = rest
			break
		}
	}
	klog.V(l.verbosity).InfoS(libraryMessage, "library", l.name, "text", string(text))
	return len(line), nil
}

// checkFormat returns an error if a flag of klog is set that says how to write text, and the log is
// not text. Components of Kubernetes do the same (k8s.io/component-base/logs/api/v1/options.go,
// Validate).
func checkFormat(format string, flags *flag.FlagSet) (err error) {
	fromKlog := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(fromKlog)
	flags.Visit(func(f *flag.Flag) {
		decides := f.Name == "v" || f.Name == "vmodule"
		if format != formatText && fromKlog.Lookup(f.Name) != nil && !decides && f.Value.String() != f.DefValue {
			err = fmt.Errorf("-%s has no effect with -logging-format=%s: leave it out", f.Name, format)
		}
	})
	return err
}
