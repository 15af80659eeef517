package follow

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// A Writer does every write to sysfs. It is the one place where the plugin changes the host.
type Writer struct {
	Root string                   // of sysfs
	Dry  bool                     // only say what would be written
	Note func(file, value string) // is told of each write before it is done, or would be; may be nil
}

// Write writes value to the attribute at the path below the root. It never creates a file and never waits for a reader, so a root
// that is not sysfs can neither grow files nor hang the plugin.
func (w Writer) Write(name, value string) error {
	full := filepath.Join(w.Root, name)
	if w.Note != nil {
		w.Note(name, value)
	}
	if w.Dry {
		klog.InfoS("Would write", "file", full, "value", value)
		return nil
	}
	klog.V(2).InfoS("Writing", "file", full, "value", value)
	fd, err := unix.Open(full, unix.O_WRONLY|unix.O_TRUNC|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: full, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value+"\n")); err != nil {
		return fmt.Errorf("write %q to %q: %w", value, full, err)
	}
	return nil
}
