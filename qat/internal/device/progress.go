// SPDX-License-Identifier: Apache-2.0

package device

import (
	"path/filepath"
	"sync"

	"qatplugin/qat/internal/sysfs"
)

// A Progress shows which file a [Reader] is at, because the kernel can block a read for as long as
// it likes. The zero Progress is ready for use, by any goroutine. A nil Progress shows nothing.
type Progress struct {
	mu        sync.Mutex // guards the following fields
	dir, name string
}

// File returns the path of the file or directory that was accessed last.
func (p *Progress) File() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return filepath.Join(p.dir, p.name)
}

// set notes that name in dir is accessed next.
func (p *Progress) set(dir, name string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.dir, p.name = dir, name
	p.mu.Unlock()
}

// trackedDir is the directory of a function that shows in a Progress what is accessed in it.
type trackedDir struct {
	sysfs.Dir
	path     string
	progress *Progress
}

func (d trackedDir) Inode(name string) (uint64, error) {
	d.progress.set(d.path, name)
	return d.Dir.Inode(name)
}

func (d trackedDir) Read(name string) (string, error) {
	d.progress.set(d.path, name)
	return d.Dir.Read(name)
}

func (d trackedDir) Link(name string) (string, error) {
	d.progress.set(d.path, name)
	return d.Dir.Link(name)
}

func (d trackedDir) Exists(name string) (bool, error) {
	d.progress.set(d.path, name)
	return d.Dir.Exists(name)
}

func (d trackedDir) Names(sub string) ([]string, error) {
	d.progress.set(d.path, sub)
	return d.Dir.Names(sub)
}
