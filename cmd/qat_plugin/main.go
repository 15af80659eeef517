// SPDX-License-Identifier: Apache-2.0

// Command qat_plugin is a Kubernetes device plugin for Intel QuickAssist (QAT).
// It reports the QAT virtual functions of a host to the kubelet, as they come
// and go, and binds them to the driver through which user space uses them.
//
// It exits with status 0 on SIGTERM and SIGINT, after it removed its sockets,
// with status 1 if it then does not stop in time or if -kubelet-dir is too
// long for the path of a socket, and with status 2 if a flag is wrong. Nothing
// else ends it.
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
	"time"

	"k8s.io/klog/v2"

	"qatplugin/events"
	"qatplugin/internal/logpipe"
	"qatplugin/internal/metrics"
	"qatplugin/internal/status"
	"qatplugin/kubeletapi"
	"qatplugin/kubeletapi/podresources"
	"qatplugin/kubeletapi/probe"
	"qatplugin/qat"
)

const (
	// namespace of the resources: qat.intel.com/generic, qat.intel.com/cy.
	namespace = "qat.intel.com"

	// cdiClass makes a VF the CDI device qat.intel.com/vf=0000:6b:00.1,
	// whatever its resource is.
	cdiClass = "vf"
)

// version is set by `make image` and by packagers: -ldflags "-X main.version=…".
var version = "devel"

// init keeps the main thread free for signals: only main, which waits, runs on it. The kernel wakes
// the main thread first to handle a signal, and no other thread if that one waits for a device and
// cannot be interrupted (kernel/signal.c, complete_signal). SIGTERM would have no effect then.
func init() { runtime.LockOSThread() }

func main() {
	keepHeapSmall()
	exit := logpipe.GuardStderr()
	logLibraries()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop) // a second signal kills the process
	code := make(chan int)
	go func() { code <- run(ctx, os.Args[1:], os.Stdout, os.Stderr) }()
	status := <-code
	stop()
	klog.Flush()
	exit(status)
}

// run is main without the process around it. It returns the exit status.
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
	started := time.Now()
	if o.loggingFormat == formatJSON {
		logAsJSON(stderr)
	}
	o.qat.NodeName = os.Getenv("NODE_NAME")
	if o.podResourcesSocket != "" {
		o.qat.Holders = podresources.New(o.podResourcesSocket, namespace, podName(os.Getenv)).Holders
	}
	o.qat.Sources = []func() (events.Source, error){func() (events.Source, error) { return events.ListenUevents() }}
	o.qat.OpenWatcher = func() (qat.Watcher, error) { return events.NewWatcher() }
	var meters *metrics.Metrics // nil if nobody can read them
	if o.servesStatus() || o.kubernetesEvents {
		o.qat.Journal = status.NewJournal(journalLimit)
	}
	if o.servesStatus() {
		meters = metrics.New(metrics.Config{Namespace: namespace, Version: version, Journal: o.qat.Journal})
		o.qat.Publishing = meters.Publishing
	}
	plugin, err := qat.New(o.qat)
	if err != nil {
		fmt.Fprintln(stderr, "qat_plugin:", err)
		return 2
	}
	klog.InfoS("QAT device plugin started", "version", version, "mode", o.qat.Mode, "sysfs", o.qat.SysfsRoot,
		"kubeletDir", o.kubeletDir)
	for _, name := range o.unused {
		klog.InfoS("A flag has no effect in this mode", "flag", "-"+name, "mode", o.qat.Mode)
	}
	if o.qat.ProvisioningForce && o.qat.ProvisioningDir == "" {
		klog.InfoS("-provisioning-force has no effect without -provisioning-dir")
	}
	if o.statusSocket != "" && !o.servesStatusSocket() {
		klog.V(1).InfoS("Not serving the status socket, because its directory does not exist", "socket", o.statusSocket)
	}
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

// serve runs the plugin until ctx ends. It returns the exit status.
func serve(ctx context.Context, o *options, plugin *qat.Plugin, meters *metrics.Metrics, started time.Time) int {
	options := []kubeletapi.Option{kubeletapi.WithKubeletDir(o.kubeletDir)}
	if o.useCDI && o.qat.Mode == qat.ModeDPDK {
		options = append(options, kubeletapi.WithCDI(o.cdiDir, cdiClass))
	}
	if meters != nil {
		options = append(options, kubeletapi.WithObserver(meters))
	}
	manager := kubeletapi.NewManager(namespace, memoryReleaser{plugin, newRelease()}, options...)
	live, ready := healthChecks(plugin, manager.CheckRegistered)
	serving, cancel := context.WithCancel(ctx)
	var servers sync.WaitGroup
	defer servers.Wait()
	defer cancel()
	if o.healthAddress != "" {
		servers.Go(func() { probe.Serve(serving, o.healthAddress, probe.Handler(live, ready)) })
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	defer signal.Stop(signals)
	servers.Go(func() { writeRecordings(serving, signals, o.recordingPath(), plugin.WriteRecording) })
	if meters != nil {
		v := &view{
			plugin:  plugin,
			manager: manager,
			journal: o.qat.Journal,
			checks:  ready,
			holders: newHolderCache(o.qat.Holders, func() { o.qat.Journal.Append() }),
			started: started,
			node:    o.qat.NodeName,
		}
		servers.Go(func() { o.serveStatus(serving, v, meters, live) })
	}
	if o.kubernetesEvents {
		v := &view{plugin: plugin, manager: manager, journal: o.qat.Journal, started: started, node: o.qat.NodeName}
		servers.Go(func() { reportEvents(serving, v, os.Getenv) })
	}
	if err := manager.Run(ctx); err != nil {
		klog.ErrorS(err, "QAT device plugin failed")
		return 1
	}
	klog.InfoS("QAT device plugin ended")
	return 0
}
