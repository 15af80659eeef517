// Command qat_plugin is a Kubernetes device plugin for Intel QuickAssist (QAT): it tells the kubelet of a host's QAT virtual functions,
// as they come and go, and binds them to the driver that user space drives them through.
//
// It ends with exit status 0 on SIGTERM and SIGINT, its sockets removed, and with 2 on a wrong flag. Nothing else ends it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"k8s.io/klog/v2"

	"qatplugin/events"
	"qatplugin/kubeletapi"
	"qatplugin/qat"
	"qatplugin/qat/kernelmode"
)

// namespace is the one that people know the resources by: qat.intel.com/generic, qat.intel.com/cy.
const namespace = "qat.intel.com"

// version is what `make image` and whoever packages the program say it is: -ldflags "-X main.version=…".
var version = "devel"

// cdiClass makes qat.intel.com/vf=0000:6b:00.1 of a VF, whatever its resource is.
const cdiClass = "vf"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	klog.Flush()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseFlags(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "qat_plugin:", err)
		return 2
	case o.version:
		fmt.Fprintln(stdout, "qat_plugin", version, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
		return 0
	}
	plugin, err := newPlugin(o)
	if err != nil {
		fmt.Fprintln(stderr, "qat_plugin:", err)
		return 2
	}
	klog.InfoS("QAT device plugin started", "version", version, "mode", o.mode, "sysfs", o.qat.SysfsRoot, "kubeletDir", o.kubeletDir)
	for _, name := range o.idle {
		klog.InfoS("A flag has no effect in this mode", "flag", "-"+name, "mode", o.mode)
	}
	serve := []kubeletapi.Option{kubeletapi.WithKubeletDir(o.kubeletDir)}
	if o.useCDI && o.mode == modeDPDK {
		serve = append(serve, kubeletapi.WithCDI(o.cdiDir, cdiClass))
	}
	manager := kubeletapi.NewManager(namespace, plugin, serve...)
	var health sync.WaitGroup
	healthy, unhealthy := context.WithCancel(ctx)
	defer health.Wait()
	defer unhealthy()
	if o.healthAddress != "" {
		health.Go(func() { serveHealth(healthy, o.healthAddress, healthHandler(plugin, manager.CheckRegistered), nil) })
	}
	if err := manager.Run(ctx); err != nil {
		klog.ErrorS(err, "QAT device plugin failed")
		return 1
	}
	klog.InfoS("QAT device plugin ended")
	return 0
}

// A mode is what the kubelet is served and what is asked of its health.
type mode interface {
	kubeletapi.Plugin
	vitals
}

// newPlugin makes the plugin of the mode. Both listen to the same two sources.
func newPlugin(o *options) (mode, error) {
	sources := []func() (events.Source, error){func() (events.Source, error) { return events.ListenUevents() }}
	watcher := func() (qat.Watcher, error) { return events.NewWatcher() }
	if o.mode == modeKernel {
		o.kernel.Sources, o.kernel.OpenWatcher = sources, watcher
		return kernelmode.New(o.kernel)
	}
	o.qat.Sources, o.qat.OpenWatcher = sources, watcher
	return qat.New(o.qat)
}
