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
	"syscall"

	"k8s.io/klog/v2"

	"qatplugin/events"
	"qatplugin/kubeletapi"
	"qatplugin/qat"
)

// namespace is the one that people know the resources by: qat.intel.com/generic, qat.intel.com/cy.
const namespace = "qat.intel.com"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
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
	}
	o.qat.Sources = []func() (events.Source, error){func() (events.Source, error) { return events.ListenUevents() }}
	o.qat.OpenWatcher = func() (qat.Watcher, error) { return events.NewWatcher() }
	plugin, err := qat.New(o.qat)
	if err != nil {
		fmt.Fprintln(stderr, "qat_plugin:", err)
		return 2
	}
	klog.InfoS("QAT device plugin started", "dpdkDriver", o.qat.DPDKDriver, "sysfs", o.qat.SysfsRoot, "kubeletDir", o.kubeletDir)
	manager := kubeletapi.NewManager(namespace, plugin, kubeletapi.WithKubeletDir(o.kubeletDir))
	if err := manager.Run(ctx); err != nil {
		klog.ErrorS(err, "QAT device plugin failed")
		return 1
	}
	klog.InfoS("QAT device plugin ended")
	return 0
}
