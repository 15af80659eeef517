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
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/kubeletapi"
)

// colors is the directory that the plugin watches. Each directory in it is a resource,
// and each file in that is a device.
type colors string

// Watch publishes the devices at the start and after each event. It makes colors a
// kubeletapi.Plugin.
func (dir colors) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	for tree := new(devtree.Tree); ; {
		found, err := dir.scan(watcher)
		if err != nil {
			return err
		}
		tree = found.After(tree)
		publish(tree)
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events: // only says that something has changed: scan
		case <-watcher.Errors: // events may have been lost: scan, too
		}
	}
}

// scan returns a Tree of all files. A color that is removed meanwhile has no devices; any
// other error ends the plugin, because a Tree without the color would be wrong.
func (dir colors) scan(watcher *fsnotify.Watcher) (*devtree.Tree, error) {
	entries, err := list(watcher, string(dir))
	if err != nil {
		return nil, err
	}
	found := new(devtree.Tree).Edit()
	for _, color := range entries {
		if !color.IsDir() {
			continue
		}
		path := filepath.Join(string(dir), color.Name())
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

// list watches the directory before it reads it. A change in between is seen twice, and
// never missed.
func list(watcher *fsnotify.Watcher, path string) ([]fs.DirEntry, error) {
	if err := watcher.Add(path); err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	return os.ReadDir(path)
}

func main() {
	dir := flag.String("dir", "/tmp/colors", "`directory` of the colors: an absolute path that exists")
	kubelet := flag.String("kubelet-dir", "/var/lib/kubelet/device-plugins", "`directory` of kubelet.sock")
	klog.InitFlags(nil)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	manager := kubeletapi.NewManager("color.example.com", colors(*dir), kubeletapi.WithKubeletDir(*kubelet))
	if err := manager.Run(ctx); err != nil {
		klog.ErrorS(err, "The plugin failed", "dir", *dir)
		klog.FlushAndExit(klog.ExitFlushTimeout, 1)
	}
}
