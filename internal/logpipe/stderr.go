// SPDX-License-Identifier: Apache-2.0

package logpipe

import (
	"os"
	"runtime"
	"time"

	"k8s.io/klog/v2"
)

// flushTimeout is how long the end of the process waits for the reader of its log.
const flushTimeout = time.Second

// GuardStderr redirects standard error, to which klog writes, through a [Pipe] for the rest of the
// process. So the program continues when nobody reads its log. exit writes the rest of the log and
// ends the process; klog calls it, too, after a fatal error. The program must not end with
// [os.Exit], which loses the rest of the log.
func GuardStderr() (exit func(code int)) {
	log, err := Open(os.Stderr, func(lines int) {
		klog.InfoS("Lost log lines because standard error was full or closed", "lines", lines)
	})
	if err != nil {
		klog.ErrorS(err, "Cannot buffer the log; the program will block if nobody reads standard error")
		return os.Exit
	}
	stderr := os.Stderr
	os.Stderr = log.File()
	klog.OsExit = func(code int) {
		log.Close(flushTimeout)
		// The runtime writes the trace of a crash to descriptor 2. The garbage collector would
		// close it if nothing referred to its file, and another file could get the number 2.
		runtime.KeepAlive(stderr)
		os.Exit(code)
	}
	return klog.OsExit
}
