// SPDX-License-Identifier: Apache-2.0

// Command qat_plugin is a Kubernetes device plugin for Intel QuickAssist (QAT).
// It reports the QAT virtual functions of a host to the kubelet, as they come
// and go, and binds them to the driver through which user space uses them.
//
// It exits with status 0 on SIGTERM and SIGINT, after it removed its sockets,
// with status 1 if it then does not stop in time or if -kubelet-dir is too long
// for the path of a socket, and with status 2 if a flag is wrong. Nothing else
// ends it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/internal/metrics"
	"qatplugin/internal/nodelock"
	"qatplugin/internal/program"
	"qatplugin/internal/status"
	"qatplugin/kubeletapi"
	"qatplugin/kubeletapi/podresources"
	"qatplugin/kubeletapi/probe"
	"qatplugin/qat"
)

// version is set by `make image` and by packagers: -ldflags "-X main.version=…".
var version = "devel"

// init keeps the main thread free for signals: see [program.Main].
func init() { runtime.LockOSThread() }

func main() { program.Main(run) }

// run is main without the process around it. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	started := time.Now()
	o, err := parseFlags(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "qat_plugin:", err)
		return 2
	case o.ShowVersion:
		fmt.Fprintln(stdout, "qat_plugin", version, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
		return 0
	}
	o.StartLog(stderr)
	o.QAT.NodeName = os.Getenv("NODE_NAME")
	if o.podResourcesSocket != "" {
		o.QAT.Holders = podresources.New(o.podResourcesSocket, program.Namespace, podName(os.Getenv)).Holders
	}
	o.QAT.Journal = o.NewJournal()
	var meters *metrics.Metrics // nil if nobody can read them
	if o.ServesStatus() {
		meters = metrics.New(metrics.Config{Namespace: program.Namespace, Version: version, Journal: o.QAT.Journal})
		o.QAT.Publishing = meters.Publishing
	}
	plugin, err := qat.New(o.QAT)
	if err != nil {
		fmt.Fprintln(stderr, "qat_plugin:", err)
		return 2
	}
	klog.InfoS("QAT device plugin started", "version", version, "mode", o.QAT.Mode, "sysfs", o.QAT.SysfsRoot,
		"kubeletDir", o.kubeletDir)
	for _, name := range o.unused {
		klog.InfoS("A flag has no effect in this mode", "flag", "-"+name, "mode", o.QAT.Mode)
	}
	o.LogUnused()
	return serve(ctx, o, plugin, meters, started)
}

// podName returns the name of the pod that the process runs in, as "namespace/pod", or "". The
// manifests set the variables by the downward API.
func podName(getenv func(string) string) string {
	namespace, pod := getenv("POD_NAMESPACE"), getenv("POD_NAME")
	if namespace == "" || pod == "" {
		return ""
	}
	return namespace + "/" + pod
}

// A lightPlugin is the plugin, and releases the memory of its changes.
type lightPlugin struct {
	kubeletapi.Plugin
	watch program.WatchFunc
}

// Unwrap returns the plugin, for its optional interfaces.
func (p lightPlugin) Unwrap() kubeletapi.Plugin { return p.Plugin }

// Watch implements [kubeletapi.Plugin].
func (p lightPlugin) Watch(ctx context.Context, publish func(*devtree.Tree)) error {
	return p.watch(ctx, publish)
}

// serve runs the plugin until ctx ends. It returns the exit status.
func serve(ctx context.Context, o *options, plugin *qat.Plugin, meters *metrics.Metrics, started time.Time) int {
	options := []kubeletapi.Option{kubeletapi.WithKubeletDir(o.kubeletDir)}
	if o.useCDI && o.QAT.Mode == qat.ModeDPDK {
		options = append(options, kubeletapi.WithCDI(o.cdiDir, program.CDIClass))
	}
	if meters != nil {
		options = append(options, kubeletapi.WithObserver(meters))
	}
	watch, checked := program.ReleaseMemory(plugin.Watch), program.Checker(plugin)
	if o.QAT.Mode == qat.ModeDPDK {
		gate := program.NewGate(nodelock.DevicePlugin, o.kubeletDir, "")
		defer gate.Release()
		watch, checked = program.Exclusive(gate, watch, checked)
	}
	manager := kubeletapi.NewManager(program.Namespace, lightPlugin{plugin, watch}, options...)
	live, ready := program.HealthChecks(checked, probe.Check{Name: "registered", Run: manager.CheckRegistered})
	server := program.Server{
		Options:    &o.Options,
		Plugin:     plugin,
		Live:       live,
		Ready:      ready,
		Started:    started,
		Version:    version,
		Controller: program.Namespace + "/device-plugin",
		AddFront:   func(s *status.Snapshot) { s.Resources = resources(manager) },
	}
	if meters != nil {
		server.Metrics = meters.Handler
		if o.QAT.Holders != nil {
			holders := newHolderCache(o.QAT.Holders, func() { o.QAT.Journal.Append() })
			defer holders.close()
			server.Holders = holders.get
		}
	}
	defer program.Serve(ctx, server)()
	if err := manager.Run(ctx); err != nil {
		klog.ErrorS(err, "QAT device plugin failed")
		return 1
	}
	klog.InfoS("QAT device plugin ended")
	return 0
}

// resources returns the states of the resources at the kubelet.
func resources(manager *kubeletapi.Manager) []status.Resource {
	list := []status.Resource{} // never null in JSON
	for _, r := range manager.Resources() {
		s := status.Resource{
			Name:      r.Name,
			Devices:   r.Devices,
			Healthy:   r.Healthy,
			Phase:     string(r.Phase),
			Err:       program.ErrorText(r.Err),
			Streams:   r.Streams,
			Lists:     r.Lists,
			Bytes:     r.Bytes,
			Allocated: r.Allocated,
			Failed:    r.Failed,
		}
		if !r.LastList.IsZero() {
			s.LastList = &r.LastList
		}
		list = append(list, s)
	}
	return list
}
