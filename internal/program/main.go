// SPDX-License-Identifier: Apache-2.0

// Package program is what the programs that offer QAT devices have in common: the flags that mean
// the same in each of them, the log, the use of memory, and what they serve and report.
//
// The main function of a program calls [Main]. That calls a function of the program, which parses
// the flags, builds a qat.Plugin and what offers its devices to Kubernetes, the front, and calls
// [Serve] before it runs the front.
//
// The package does not depend on a front. A front passes its health checks and its part of the
// status to [Serve].
package program

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"

	"qatplugin/internal/logpipe"
)

// Namespace is the part of the resources' names before the slash, as in qat.intel.com/cy.
const Namespace = "qat.intel.com"

// CDIClass makes a VF the CDI device qat.intel.com/vf=0000:6b:00.1, whatever its resource is.
const CDIClass = "vf"

// Main calls run and exits with the status that it returns. SIGTERM and SIGINT end the context of
// run. A second signal kills the process.
//
// Main must be called on the main thread of the process, which only waits there: the init function
// of the program calls [runtime.LockOSThread]. The kernel wakes the main thread first to handle a
// signal, and no other thread if that one waits for a device and cannot be interrupted
// (kernel/signal.c, complete_signal). SIGTERM would have no effect then.
func Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer) int) {
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
