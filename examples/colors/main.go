// SPDX-License-Identifier: Apache-2.0

// Command colors is a small device plugin. Its devices are files: as long as the file
// /tmp/colors/yellow/1 exists, it is device 1 of color.example.com/yellow.
// docs/writing-a-plugin.md explains the program.
package main

import (
	"context"
	"flag"
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

// scan watches each directory before it reads it. A change in between is seen twice, and
// never missed.
func (dir colors) scan(watcher *fsnotify.Watcher) (*devtree.Tree, error) {
	if err := watcher.Add(string(dir)); err != nil {
		return nil, err
	}
	found := new(devtree.Tree).Edit()
	entries, err := os.ReadDir(string(dir))
	for _, color := range entries {
		path := filepath.Join(string(dir), color.Name())
		if !color.IsDir() || watcher.Add(path) != nil {
			continue // not a directory, or removed meanwhile, which is an event
		}
		files, _ := os.ReadDir(path)
		for _, file := range files {
			device := &devtree.Device{ID: file.Name(), Health: devtree.Healthy}
			file := filepath.Join(path, file.Name())
			device.Mounts = []devtree.Mount{{HostPath: file, ContainerPath: file, ReadOnly: true}}
			if err := found.Put(color.Name(), device); err != nil {
				klog.ErrorS(err, "Skipping a device", "color", color.Name()) // and no other
			}
		}
	}
	return found.Build(), err
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
