// Command colors is a device plugin in few lines. Its devices are files: /tmp/colors/yellow/1 is device 1 of color.example.com/yellow from
// the moment it is made until it is removed. docs/writing-a-plugin.md explains it.
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

// colors is the plugin, and the directory that it watches: each directory in it is a resource, each file in that a device.
type colors string

// Watch looks, publishes what it found, and waits for the next event. It makes colors a kubeletapi.Plugin.
func (dir colors) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	for tree := new(devtree.Tree); ; {
		found, err := dir.look(watcher)
		if err != nil {
			return err
		}
		tree = found.After(tree)
		publish(tree)
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events: // whatever it says: the directory says what is true
		case <-watcher.Errors: // events were lost: the same
		}
	}
}

// look first subscribes to each directory and then reads it: what comes in between is seen twice, and never missed.
func (dir colors) look(watcher *fsnotify.Watcher) (*devtree.Tree, error) {
	if err := watcher.Add(string(dir)); err != nil {
		return nil, err
	}
	found := new(devtree.Tree).Edit()
	entries, err := os.ReadDir(string(dir))
	for _, color := range entries {
		path := filepath.Join(string(dir), color.Name())
		if !color.IsDir() || watcher.Add(path) != nil {
			continue // the directory has gone meanwhile: there will be an event of that
		}
		files, _ := os.ReadDir(path)
		for _, file := range files {
			device := &devtree.Device{ID: file.Name(), Health: devtree.Healthy}
			file := filepath.Join(path, file.Name())
			device.Mounts = []devtree.Mount{{HostPath: file, ContainerPath: file, ReadOnly: true}}
			if err := found.Put(color.Name(), device); err != nil {
				klog.ErrorS(err, "Left a device out", "color", color.Name()) // and only this one
			}
		}
	}
	return found.Build(), err
}

func main() {
	dir := flag.String("dir", "/tmp/colors", "`directory` of the colors: it exists, and the path is absolute")
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
