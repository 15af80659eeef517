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

// Main runs the plugin as the whole program. It does not return: it exits
//
//   - with status 0 after SIGTERM or SIGINT (a second one kills the process), and after -h
//   - with status 2 if a flag is wrong
//   - with status 1 if [Manager.Run] fails, as after an error of Watch, which is logged
//
// It registers these flags on [flag.CommandLine], beside those that the program has registered
// before, and parses the command line:
//
//   - those of klog, such as -v
//   - -kubelet-dir; see [WithKubeletDir]
//   - -use-cdi and -cdi-dir; see [WithCDI]
//   - -health-address, at which it serves /livez and /readyz; see package probe
//
// The options set the defaults of these flags. A flag that the program has registered itself is
// left to it. The plugin may read the program's flags in Watch, not before Main.
//
// /livez answers as long as the process runs. /readyz has the check "registered", which is
// [Manager.CheckRegistered], and "plugin" if the plugin is a [ReadyChecker].
//
// The plugin continues when standard error is full or closed: up to a megabyte of log lines wait,
// and further ones are lost and counted.
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

// program is what Main runs.
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
