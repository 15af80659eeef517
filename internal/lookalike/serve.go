// SPDX-License-Identifier: Apache-2.0

package lookalike

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Serve does what the kernel does when programs write to this sysfs, until ctx ends; then it
// returns nil.
//
// bus/pci/drivers_probe and each driver's bind and unbind are FIFOs, so that no write is lost or
// merged with another. Write an address and a newline. While the host is not served, opening
// them with O_NONBLOCK fails with ENXIO. The files sriov_numvfs, remove, and state, cfg_services,
// pm_idle_enabled and auto_reset in qat/ of a PF, its telemetry/control in debugfs, and
// bus/pci/rescan, are regular files that Serve follows with inotify: of two writes that come faster
// than Serve can look, the last one counts.
// Serve reverts a write that a kernel would refuse. Operations that a write requested have
// Requested set, and Err if refused.
func (h *Host) Serve(ctx context.Context) error {
	s, err := h.startServer()
	if err != nil {
		return fmt.Errorf("serve %s: %w", h.dir, err)
	}
	for {
		select {
		case <-ctx.Done():
			h.mu.Lock()
			h.server = nil
			h.ready = make(chan struct{})
			h.mu.Unlock()
			s.close()
			return nil
		case <-s.wake:
			for file, ok := s.dequeue(); ok && ctx.Err() == nil; file, ok = s.dequeue() {
				files := []string{file}
				if file == "" {
					files = s.writableFiles()
				}
				for _, file := range files {
					h.handleFile(file)
				}
			}
		}
	}
}

// Ready returns a channel that is closed while the host is served.
func (h *Host) Ready() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready
}

// server holds the resources of one call of Serve.
type server struct {
	host    *Host
	watcher *fsnotify.Watcher
	readers sync.WaitGroup
	wake    chan struct{} // has a value when written is not empty; capacity 1

	mu      sync.Mutex // guards the following fields
	closed  bool
	written []string              // files in the order of their writes; "": events were lost
	fifos   map[string][]*os.File // by driver; "" for drivers_probe
}

func (h *Host) startServer() (*server, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.server != nil {
		return nil, errors.New("already served")
	}
	w, err := fsnotify.NewBufferedWatcher(256)
	if err != nil {
		return nil, err
	}
	s := &server{host: h, watcher: w, wake: make(chan struct{}, 1), fifos: map[string][]*os.File{}}
	s.readers.Go(s.followFiles)
	if err := s.open(); err != nil {
		s.close()
		return nil, err
	}
	h.server = s
	close(h.ready)
	return s, nil
}

// open opens the FIFOs and watches the directories of the regular files.
func (s *server) open() error {
	h := s.host
	if err := s.openFIFO("", h.sys("bus/pci/drivers_probe"), h.handleProbe); err != nil {
		return err
	}
	for name := range h.drivers {
		if err := s.openDriver(name, h.sys("bus/pci/drivers", name)); err != nil {
			return err
		}
	}
	dirs := []string{h.sys("bus/pci")}
	for _, d := range h.devices {
		if d.spec == nil {
			continue
		}
		dirs = append(dirs, d.dir(h))
		if d.hasQATGroup() {
			dirs = append(dirs, path.Join(d.dir(h), "qat"))
		}
		if d.hasTelemetry() && d.isUp() {
			dirs = append(dirs, h.telemetryDir(d))
		}
	}
	for _, dir := range dirs {
		if err := s.watch(dir); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) close() {
	s.mu.Lock()
	s.closed = true
	_ = s.watcher.Close()
	for _, files := range s.fifos {
		for _, f := range files {
			_ = f.Close()
		}
	}
	s.mu.Unlock()
	s.readers.Wait()
}

// watch watches a directory. It does nothing if Serve is just ending.
func (s *server) watch(dir string) error {
	if err := s.watcher.Add(dir); !errors.Is(err, fsnotify.ErrClosed) {
		return err
	}
	return nil
}

// watchWrites watches a new directory if the host is served.
func (o *op) watchWrites(dir string) {
	if o.h.server != nil {
		o.try(func() error { return o.h.server.watch(dir) })
	}
}

// openDriver opens the FIFOs of a driver, whose directory is dir.
func (s *server) openDriver(name, dir string) error {
	bind := func(address string) { s.host.handleBind(address, name) }
	unbind := func(address string) { s.host.handleUnbind(address, name) }
	return errors.Join(
		s.openFIFO(name, path.Join(dir, "bind"), bind),
		s.openFIFO(name, path.Join(dir, "unbind"), unbind),
	)
}

// openFIFO calls handle for each address that is written to a FIFO. It opens the FIFO for writing
// too: otherwise reading would end when a writer closes it.
func (s *server) openFIFO(driver, file string, handle func(address string)) error {
	f, err := os.OpenFile(file, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return f.Close()
	}
	s.fifos[driver] = append(s.fifos[driver], f)
	s.readers.Go(func() {
		defer f.Close()
		readAddresses(f, func(address string) {
			s.host.countWrite(path.Base(file))
			handle(address)
		})
	})
	return nil
}

// closeDriver closes the FIFOs of a driver, which ends their readers.
func (s *server) closeDriver(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.fifos[name] {
		_ = f.Close()
	}
	delete(s.fifos, name)
}

var addressInText = regexp.MustCompile(`[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]`)

// writable are the names of the files of PFs and of the bus that programs write to.
var writable = map[string]bool{
	"remove": true, "rescan": true, "sriov_numvfs": true, "sriov_drivers_autoprobe": true,
	"state": true, "cfg_services": true, "pm_idle_enabled": true, "auto_reset": true, "control": true,
}

// Writes returns how often programs wrote to a file while the host was served, by the file's name:
// those of attributes of PFs that can be changed, rescan, drivers_probe, bind and unbind. One write
// counts once or twice, because opening a file can truncate it. Writes to driver_override do not
// count.
func (h *Host) Writes() map[string]int {
	h.writesMu.Lock()
	defer h.writesMu.Unlock()
	return maps.Clone(h.writes)
}

func (h *Host) countWrite(name string) {
	h.writesMu.Lock()
	defer h.writesMu.Unlock()
	h.writes[name]++
}

// readAddresses calls handle for each address in what it reads. The last digit of an address
// stands alone, so addresses need no newline between them. Anything else is skipped.
func readAddresses(f *os.File, handle func(address string)) {
	const longest = 64 // more than any address
	buf := make([]byte, 4096)
	n := 0
	for {
		k, err := f.Read(buf[n:])
		if err != nil {
			return
		}
		n += k
		end := 0
		for _, m := range addressInText.FindAllIndex(buf[:n], -1) {
			handle(string(buf[m[0]:m[1]]))
			end = m[1]
		}
		n = copy(buf, buf[max(end, n-longest):n]) // an address may be incomplete
	}
}

// followFiles queues the files that are written to. It never takes the host's lock, so that the
// watcher's queue is always read.
func (s *server) followFiles() {
	for {
		select {
		case e, ok := <-s.watcher.Events:
			if !ok {
				return
			}
			if e.Has(fsnotify.Write) { // a user's write; the host renames files into place
				if name := path.Base(e.Name); writable[name] {
					s.host.countWrite(name)
				}
				s.enqueue(e.Name)
			}
		case _, ok := <-s.watcher.Errors:
			if !ok {
				return
			}
			s.enqueue("")
		}
	}
}

// enqueue queues a file that was written to; "" means that events were lost.
func (s *server) enqueue(file string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.written); n == 0 || s.written[n-1] != file {
		s.written = append(s.written, file)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// dequeue returns the file that was written to first.
func (s *server) dequeue() (file string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.written) == 0 {
		return "", false
	}
	file, s.written = s.written[0], s.written[1:]
	return file, true
}

// pending reports whether a write to the file waits to be handled.
func (s *server) pending(file string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.written, file)
}

// pendingSoon is pending for a write that may have happened already and not been seen yet.
func (s *server) pendingSoon(file string) bool {
	for range 200 {
		if s.pending(file) {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// writableFiles returns the files that users write to.
func (s *server) writableFiles() []string {
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	files := []string{h.sys("bus/pci/rescan")}
	for _, d := range h.devices {
		if d.spec != nil {
			for _, name := range []string{
				"remove", "sriov_numvfs", "qat/state", "qat/cfg_services", "qat/pm_idle_enabled", "qat/auto_reset",
			} {
				files = append(files, path.Join(d.dir(h), name))
			}
			files = append(files, path.Join(h.telemetryDir(d), "control"))
		}
	}
	return files
}
