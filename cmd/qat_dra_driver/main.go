// SPDX-License-Identifier: Apache-2.0

// Command qat_dra_driver is a driver of Kubernetes' Dynamic Resource Allocation (DRA) for Intel
// QuickAssist (QAT). It publishes the QAT virtual functions of a host in ResourceSlices, as they
// come and go, binds them to the driver through which user space uses them, and prepares claims.
//
// It exits with status 0 on SIGTERM and SIGINT, with status 1 if it then does not stop in time or
// if -kubelet-root is too long for the path of a socket, and with status 2 if a flag is wrong.
// Nothing else ends it. The ResourceSlices stay when it ends, so that its successor continues with
// them. The kubelet deletes them if there is none.
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
	"qatplugin/draapi"
	"qatplugin/internal/metrics"
	"qatplugin/internal/nodelock"
	"qatplugin/internal/program"
	"qatplugin/internal/status"
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
	o, err := parseFlags(args, os.Getenv, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "qat_dra_driver:", err)
		return 2
	case o.ShowVersion:
		fmt.Fprintln(stdout, "qat_dra_driver", version, runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH)
		return 0
	}
	o.StartLog(stderr)
	o.QAT.Journal = o.NewJournal()
	var meters *metrics.DRA // nil if nobody can read them
	if o.ServesStatus() {
		meters = metrics.NewDRA(metrics.Config{
			Namespace: program.Namespace, Version: version, Journal: o.QAT.Journal,
		})
		o.QAT.Publishing = meters.Publishing
	}
	var driver *draapi.Driver // its claims hold the VFs
	o.QAT.Holders = func(ctx context.Context) (map[string]string, error) { return driver.Holders(ctx) }
	o.QAT.HeldBy = "claim"
	qatPlugin, err := qat.New(o.QAT)
	if err != nil {
		fmt.Fprintln(stderr, "qat_dra_driver:", err)
		return 2
	}
	gate := program.NewGate(nodelock.DRADriver, o.kubeletDir, o.otherDriver())
	defer gate.Release()
	watch, checked := program.Exclusive(gate, program.ReleaseMemory(qatPlugin.Watch), qatPlugin)
	driver = o.newDriver(&plugin{qatPlugin, watch}, meters)
	klog.InfoS("QAT DRA driver started", "version", version, "driver", o.driverName, "node", o.QAT.NodeName,
		"sysfs", o.QAT.SysfsRoot, "kubeletRoot", o.kubeletRoot)
	o.LogUnused()
	server := program.Server{
		Options:    &o.Options,
		Plugin:     qatPlugin,
		Started:    started,
		Version:    version,
		Controller: program.Namespace + "/dra-driver",
		AddFront:   func(s *status.Snapshot) { s.DRA = statusOf(driver) },
		Holders: func(ctx context.Context) map[string]string {
			holders, _ := driver.Holders(ctx) // nobody holds a VF before the claims are read
			return holders
		},
	}
	server.Live, server.Ready = program.HealthChecks(checked,
		probe.Check{Name: "registered", Run: driver.CheckRegistered},
		probe.Check{Name: "published", Run: driver.CheckPublished},
		probe.Check{Name: "runtime", Run: driver.CheckRuntime},
	)
	if meters != nil {
		server.Metrics = meters.Handler
	}
	defer program.Serve(ctx, server)()
	if err := driver.Run(ctx); err != nil {
		klog.ErrorS(err, "QAT DRA driver failed")
		return 1
	}
	klog.InfoS("QAT DRA driver ended")
	return 0
}

// newDriver returns the driver of the plugin.
func (o *options) newDriver(p *plugin, meters *metrics.DRA) *draapi.Driver {
	list := []draapi.Option{
		draapi.WithNodeName(o.QAT.NodeName),
		draapi.WithRESTConfig(o.api),
		draapi.WithKubeletRoot(o.kubeletRoot),
		draapi.WithCDIDir(o.cdiDir),
		draapi.WithPodUID(o.podUID),
		draapi.WithGroupBy("pfAddress"),
	}
	if o.taintEffect == noExecute {
		list = append(list, draapi.WithEviction(evicts))
	}
	if o.deviceMetadata {
		list = append(list, draapi.WithDeviceMetadata())
	}
	if o.assumeCDI {
		list = append(list, draapi.WithAssumedCDI())
	}
	if meters != nil {
		list = append(list, draapi.WithObserver(observer{meters}))
	}
	return draapi.NewDriver(o.driverName, p, list...)
}

// evicts reports whether a device that must not be used evicts the pods that use it. A VF whose PF
// waits to be provisioned works until they end.
func evicts(d *devtree.Device) bool { return d.Cause != status.ClassWithdrawn }
