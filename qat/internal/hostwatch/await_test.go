// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qatplugin/events"
)

// newSocketPair returns a source of uevents, and the socket that its messages are written to.
func newSocketPair(t *testing.T) (open func() (events.Source, error), kernel int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := events.ListenSocket(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = listener.Close(), unix.Close(fds[1]) })
	return func() (events.Source, error) { return listener, nil }, fds[1]
}

// answeringWriter is a kernel that answers requests at once. It sends another event before.
type answeringWriter struct {
	t      *testing.T
	socket int
	silent bool
	err    error
}

func (w *answeringWriter) DryRun() bool { return false }
func (w *answeringWriter) Write(name, value string) error {
	path := map[string]string{busFile: busPath, loFile: loPath}[name]
	for _, uuid := range []string{"another", strings.TrimPrefix(value, "change ")} {
		message := fmt.Sprintf("change@%s\x00ACTION=change\x00DEVPATH=%[1]s\x00SUBSYSTEM=bus\x00SYNTH_UUID=%s\x00",
			path, uuid)
		if !w.silent {
			if _, err := unix.Write(w.socket, []byte(message)); err != nil {
				w.t.Error(err)
			}
		}
	}
	return w.err
}

func TestProbeUevents(t *testing.T) {
	foreign := fakeEnvironment{ownNetwork: true}
	for name, test := range map[string]struct {
		environment fakeEnvironment
		silent      bool
		writeErr    error
		openErr     error
		asked       bool
		err         string
	}{
		"answer":        {asked: true},
		"no answer":     {silent: true, asked: true, err: reasonNoAnswer},
		"look-alike":    {environment: fakeEnvironment{ordinary: true}, silent: true},
		"foreign sysfs": {environment: foreign, asked: true, err: reasonForeignSysfs},
		"user namespace": {
			environment: fakeEnvironment{userNamespace: true}, silent: true, asked: true, err: reasonUserNamespace,
		},
		"read-only": {silent: true, writeErr: unix.EROFS, err: cannotAsk + "read-only file system"},
		"no socket": {
			openErr: errors.New("no room"), asked: true, err: "open the uevent socket: no room",
		},
	} {
		t.Run(name, func(t *testing.T) {
			open, socket := newSocketPair(t)
			if test.openErr != nil {
				open = func() (events.Source, error) { return nil, test.openErr }
			}
			ctx := t.Context()
			if test.silent { // the answer need not be waited for
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(ctx)
				cancel()
			}
			w := &answeringWriter{t: t, socket: socket, silent: test.silent, err: test.writeErr}
			asked, err := newProbe("/sys", w, test.environment).await(ctx, open)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if asked != test.asked || text != test.err {
				t.Errorf("asked %v, error %q; want %v, %q", asked, text, test.asked, test.err)
			}
		})
	}
}
