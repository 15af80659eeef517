// SPDX-License-Identifier: Apache-2.0

package devicemanager

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"qatplugin/internal/testenv"
)

// RunIsolated makes the program run with a /var/lib/kubelet of its own. It runs the program again
// in a new mount namespace, as [testenv.RunInNamespaces] does, and mounts the directory there.
func RunIsolated() (code int, again bool, err error) {
	code, again, err = testenv.RunInNamespaces(unix.CLONE_NEWNS)
	if err == nil && !again {
		err = mountKubeletDir()
	}
	return code, again, err
}

// mountKubeletDir mounts an empty tmpfs at /var/lib/kubelet. If the machine has no such directory,
// it must not be created there, so the tmpfs is mounted at its parent.
func mountKubeletDir() error {
	target := "/var/lib/kubelet"
	if _, err := os.Stat(target); err != nil {
		target = "/var/lib"
	}
	if err := unix.Mount("tmpfs", target, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs at %q: %w", target, err)
	}
	if err := os.MkdirAll(SocketDir, 0o755); err != nil {
		return fmt.Errorf("create the kubelet's directory: %w", err)
	}
	return nil
}
