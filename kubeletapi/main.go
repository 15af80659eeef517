// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	ossignal "os/signal"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"qatplugin/internal/logpipe"
	"qatplugin/kubeletapi/probe"
)

// Main is the whole main function of a plugin. It does not return, but exits
//
//   - with status 0 after SIGTERM or SIGINT (a second one kills the process), and after -h
//   - with status 2 if a flag is invalid
//   - with status 1 if [Manager.Run] fails, for example after an error of Watch; it logs the error
//
// Main registers these flags on [flag.CommandLine], in addition to those that the program has
// registered, and parses the command line:
//
//   - those of klog, such as -v
//   - -kubelet-dir; see [WithKubeletDir]
//   - -use-cdi and -cdi-dir; see [WithCDI]
//   - -health-address, at which it serves /livez and /readyz; see package probe
//
// The options set the defaults of these flags. Main does not register a flag that the program has
// registered itself. The plugin may read the program's flags in Watch, but not before Main.
//
// /livez answers as long as the process runs. /readyz has the check "registered", which is
// [Manager.CheckRegistered], and "plugin" if the plugin is a [ReadyChecker].
//
// The plugin continues to run when standard error is a full or closed pipe. Up to a megabyte of log
// lines is buffered; further lines are dropped and counted.
//
// A program that needs more control calls [NewManager] and [Manager.Run] instead.
func Main(namespace string, plugin Plugin, opts ...Option) {
	p, status := newProgram(flag.CommandLine, os.Args[1:], namespace, plugin, opts)
	if p == nil {
		os.Exit(status)
	}
	exit := logpipe.GuardStderr()
	ctx, stop := ossignal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	context.AfterFunc(ctx, stop)
	status = p.run(ctx)
	klog.Flush()
	exit(status)
}

// program holds the arguments of Main and the parsed flags.
type program struct {
	namespace     string
	plugin        Plugin
	settings      config
	healthAddress probe.Address
}

// newProgram parses the command line. If there is nothing to run, it returns nil and the exit
// status.
func newProgram(
	flags *flag.FlagSet, args []string, namespace string, plugin Plugin, opts []Option,
) (p *program, status int) {
	p = &program{namespace: namespace, plugin: plugin, settings: NewManager(namespace, plugin, opts...).config}
	registerFlags(flags, &p.settings, &p.healthAddress)
	switch err := flags.Parse(args); { // with flag.ExitOnError, the default, it exits itself
	case errors.Is(err, flag.ErrHelp):
		return nil, 0
	case err != nil:
		return nil, 2
	}
	if err := p.settings.resolve(); err != nil {
		fmt.Fprintln(flags.Output(), err)
		return nil, 2
	}
	return p, 0
}

// run serves the plugin until ctx ends, and returns the exit status.
func (p *program) run(ctx context.Context) int {
	manager := NewManager(p.namespace, p.plugin, func(c *config) { *c = p.settings })
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	if p.healthAddress != "" {
		ready := []probe.Check{{Name: "registered", Run: manager.CheckRegistered}}
		if c := methodsOf(p.plugin).readyChecker; c != nil {
			ready = append(ready, probe.Check{Name: "plugin", Run: c.CheckReady})
		}
		serving.Go(func() { probe.Serve(ctx, string(p.healthAddress), probe.Handler(nil, ready)) })
	}
	err := manager.Run(ctx)
	cancel()
	serving.Wait()
	if err != nil {
		klog.FromContext(ctx).Error(err, "The device plugin failed", "namespace", p.namespace)
		return 1
	}
	return 0
}

// registerFlags registers the flags that are not registered yet.
func registerFlags(flags *flag.FlagSet, c *config, healthAddress *probe.Address) {
	if c.cdiDir == "" {
		c.cdiDir = "/var/run/cdi"
	}
	c.dir = strings.TrimSuffix(c.dir, "/")
	own := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(own)
	own.StringVar(&c.dir, "kubelet-dir", c.dir, "`directory` of kubelet.sock and of the plugins' sockets")
	own.BoolVar(&c.cdiEnabled, "use-cdi", c.cdiEnabled, "maintain CDI specs of the devices")
	own.StringVar(&c.cdiDir, "cdi-dir", c.cdiDir,
		"`directory` of the CDI specs, with -use-cdi; it is created if it does not exist")
	own.Var(healthAddress, "health-address",
		"`address` HOST:PORT at which /livez and /readyz are served, such as :8081; empty disables them")
	own.VisitAll(func(f *flag.Flag) {
		if flags.Lookup(f.Name) == nil {
			flags.Var(f.Value, f.Name, f.Usage)
		}
	})
}
