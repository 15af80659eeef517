// SPDX-License-Identifier: Apache-2.0

package nodelock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// checkSockets returns an error that wraps errHeld if a live process serves a socket
// "<namespace>-<resource>.sock" in dir. This plugin and Intel's name their sockets like this, and
// Intel's plugin and older versions of this one take no lock. Sockets of ignored resources may be
// served.
func checkSockets(dir, namespace string, ignored func(resource string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		resource, ours := strings.CutPrefix(entry.Name(), namespace+"-")
		resource, isSocket := strings.CutSuffix(resource, ".sock")
		if !ours || !isSocket || ignored(resource) {
			continue
		}
		if path := filepath.Join(dir, entry.Name()); isServed(path) {
			return fmt.Errorf("a device plugin serves %s: %w", path, errHeld)
		}
	}
	return nil
}

// isServed reports whether a process listens on the socket. It does not wait: with a full backlog,
// connect fails with EAGAIN (net/unix/af_unix.c, unix_stream_connect).
func isServed(path string) bool {
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
	}
	return !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist)
}
