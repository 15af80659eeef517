// SPDX-License-Identifier: Apache-2.0

// Command colors is a small device plugin. Its devices are files: as long as the file
// /tmp/colors/yellow/1 exists, it is device 1 of color.example.com/yellow.
// docs/writing-a-plugin.md explains the program.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/kubeletapi"
)

// colors watches a directory. Each subdirectory is a resource, and each file in a subdirectory is a
// device.
type colors struct{ dir string }

// Watch publishes the devices at the start and after each event. It makes colors a
// kubeletapi.Plugin.
func (c *colors) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	for tree := new(devtree.Tree); ; {
		found, err := c.scan(watcher)
		if err != nil {
			return err
		}
		tree = found.After(tree)
		publish(tree)
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events: // only says that something has changed: scan
		case <-watcher.Errors: // events may have been lost: scan as well
		}
	}
}

// scan returns a Tree of all files. A color that is removed during the scan has no devices. Any
// other error ends the plugin, because a Tree without the color would be wrong.
func (c *colors) scan(watcher *fsnotify.Watcher) (*devtree.Tree, error) {
	entries, err := list(watcher, c.dir)
	if err != nil {
		return nil, err
	}
	found := new(devtree.Tree).Edit()
	for _, color := range entries {
		if !color.IsDir() {
			continue
		}
		path := filepath.Join(c.dir, color.Name())
		files, err := list(watcher, path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue // removed or replaced since the first list, which is an event
		}
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			device := &devtree.Device{ID: file.Name(), Health: devtree.Healthy}
			path := filepath.Join(path, file.Name())
			device.Mounts = []devtree.Mount{{HostPath: path, ContainerPath: path, ReadOnly: true}}
			if err := found.Put(color.Name(), device); err != nil {
				klog.ErrorS(err, "Skipping a device", "color", color.Name())
			}
		}
	}
	return found.Build(), nil
}

// list watches the directory before it reads it, so that no change is missed. A change between the
// two is seen twice.
func list(watcher *fsnotify.Watcher, path string) ([]fs.DirEntry, error) {
	if err := watcher.Add(path); err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	return os.ReadDir(path)
}

// CheckReady returns an error while the directory cannot be read.
func (c *colors) CheckReady(context.Context) error {
	_, err := os.ReadDir(c.dir)
	return err
}

var _ kubeletapi.ReadyChecker = (*colors)(nil)

func main() {
	var plugin colors
	flag.StringVar(&plugin.dir, "dir", "/tmp/colors", "`directory` of the colors: an absolute path that exists")
	kubeletapi.Main("color.example.com", &plugin)
}
