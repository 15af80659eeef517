// SPDX-License-Identifier: Apache-2.0

package device

import (
	"path/filepath"
	"sync"

	"qatplugin/qat/internal/sysfs"
)

// A Progress records which file a [Reader] accesses, so that a read that the kernel blocks can be
// reported. The zero Progress is ready for use, by any goroutine. A nil Progress records nothing.
type Progress struct {
	mu        sync.Mutex // guards the following fields
	dir, name string
}

// File returns the path of the file or directory that the Reader accessed last.
func (p *Progress) File() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return filepath.Join(p.dir, p.name)
}

// set records that the Reader accesses name in dir next.
func (p *Progress) set(dir, name string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.dir, p.name = dir, name
	p.mu.Unlock()
}

// trackedDir is the directory of a function. Each access through it is recorded in a Progress.
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
