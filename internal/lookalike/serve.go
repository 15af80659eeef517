package lookalike

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Serve plays the kernel for what programs write to this sysfs, until ctx ends; then it returns nil.
//
// bus/pci/drivers_probe and each driver's bind and unbind are FIFOs, so that no write is lost or merged with another: write an address and
// a newline; opened without waiting they give ENXIO while nobody serves. A PF's sriov_numvfs, qat/state, qat/cfg_services and
// remove, and bus/pci/rescan, are ordinary files followed by inotify: of two writes that come faster than Serve can look, the last
// counts. A write that a kernel would refuse is undone. Operations that come of writes have Asked set; those refused have Err.
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
			s.readers.Wait()
			return nil
		case <-s.wake:
			for file, ok := s.next(); ok && ctx.Err() == nil; file, ok = s.next() {
				if file != "" {
					h.written(file)
					continue
				}
				for _, file := range s.all() {
					h.written(file)
				}
			}
		}
	}
}

// Ready is closed while Serve hears what is written.
func (h *Host) Ready() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ready
}

// server is what one call of Serve holds open.
type server struct {
	host    *Host
	watcher *fsnotify.Watcher
	readers sync.WaitGroup
	wake    chan struct{} // capacity 1: written is not empty

	mu      sync.Mutex
	closed  bool
	written []string              // paths in the order of their writes; "": events were lost, look at all
	fifos   map[string][]*os.File // by driver; "" holds drivers_probe
}

func (h *Host) startServer() (*server, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.server != nil {
		return nil, errors.New("it is served already")
	}
	w, err := fsnotify.NewBufferedWatcher(256)
	if err != nil {
		return nil, err
	}
	s := &server{host: h, watcher: w, wake: make(chan struct{}, 1), fifos: map[string][]*os.File{}}
	s.readers.Go(s.follow)
	err = s.openFIFO("", h.sys("bus/pci/drivers_probe"), func(address string) { h.askProbe(address) })
	for name := range h.drivers {
		if err == nil {
			err = s.openDriver(name, h.sys("bus/pci/drivers", name))
		}
	}
	dirs := []string{h.sys("bus/pci")}
	for _, d := range h.devices {
		if d.spec != nil {
			dirs = append(dirs, d.dir(h))
			if d.hasGroup() {
				dirs = append(dirs, path.Join(d.dir(h), "qat"))
			}
		}
	}
	for _, dir := range dirs {
		if err == nil {
			err = s.watch(dir)
		}
	}
	if err != nil {
		s.close()
		s.readers.Wait()
		return nil, err
	}
	h.server = s
	close(h.ready)
	return s, nil
}

// watch follows a directory. Serve may just be ending; then nobody needs it.
func (s *server) watch(dir string) error {
	if err := s.watcher.Add(dir); !errors.Is(err, fsnotify.ErrClosed) {
		return err
	}
	return nil
}

func (s *server) openDriver(name, dir string) error {
	if err := s.openFIFO(name, path.Join(dir, "bind"), func(address string) { s.host.askBind(address, name) }); err != nil {
		return err
	}
	return s.openFIFO(name, path.Join(dir, "unbind"), func(address string) { s.host.askUnbind(address, name) })
}

// openFIFO reads addresses from a FIFO. It is open for writing too, so that it does not end when a writer closes.
func (s *server) openFIFO(driver, file string, ask func(address string)) error {
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
		readAddresses(f, ask)
	})
	return nil
}

func (s *server) closeDriver(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.fifos[name] {
		_ = f.Close() // its reader ends and closes it once more
	}
	delete(s.fifos, name)
}

func (s *server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	_ = s.watcher.Close()
	for _, files := range s.fifos {
		for _, f := range files {
			_ = f.Close()
		}
	}
}

var addressInText = regexp.MustCompile(`[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]`)

// readAddresses calls ask for each address. A function's number is one digit, so addresses are told apart even without a newline
// between them; what is no address is skipped.
func readAddresses(f *os.File, ask func(address string)) {
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
			ask(string(buf[m[0]:m[1]]))
			end = m[1]
		}
		n = copy(buf, buf[end:n])
		if n > 64 { // longer than an address: it will never become one
			n = copy(buf, buf[n-64:n])
		}
	}
}

// follow collects the paths that were written to. It never takes the host's lock, so that the watcher is never made to wait.
func (s *server) follow() {
	for {
		select {
		case e, ok := <-s.watcher.Events:
			if !ok {
				return
			}
			// The host itself renames new values into place (Create); a user writes into the file.
			if e.Has(fsnotify.Write) {
				s.note(e.Name)
			}
		case _, ok := <-s.watcher.Errors:
			if !ok {
				return
			}
			s.note("")
		}
	}
}

// note queues a path; "" says that events were lost.
func (s *server) note(file string) {
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

// next takes the path that was written first.
func (s *server) next() (file string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.written) == 0 {
		return "", false
	}
	file, s.written = s.written[0], s.written[1:]
	return file, true
}

// pending tells whether a write to the file waits to be looked at.
func (s *server) pending(file string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.written, file)
}

// soonPending is pending that gives the watcher a moment to tell of a write that has happened already.
func (s *server) soonPending(file string) bool {
	for range 20 {
		if s.pending(file) {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// all are the files that users write to, for when it is not known which were written.
func (s *server) all() []string {
	h := s.host
	h.mu.Lock()
	defer h.mu.Unlock()
	files := []string{h.sys("bus/pci/rescan")}
	for _, d := range h.devices {
		if d.spec != nil {
			for _, name := range []string{"remove", "sriov_numvfs", "qat/state", "qat/cfg_services"} {
				files = append(files, path.Join(d.dir(h), name))
			}
		}
	}
	return files
}
