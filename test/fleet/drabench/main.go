// SPDX-License-Identifier: Apache-2.0

// Command drabench measures qat_dra_driver against a real API server, from a change on a look-alike
// host until the ResourceSlice is visible on a watch. It compares it with a driver of the same
// devices on upstream's helper and, if it is given, with Intel's driver.
//
//	drabench -programs DIR -driver FILE -helper FILE [-intel FILE] [-doc FILE]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"qatplugin/internal/measure"
	"qatplugin/test/fleet/controlplane"
)

func main() {
	measure.Child()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "drabench:", err)
		os.Exit(1)
	}
}

// A driver is a program to measure.
type driver struct {
	name    string
	program string
	args    []string
	static  bool // publishes its devices once: a change has no effect
	max     int  // number of devices that it can publish; 0: no limit
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("drabench", flag.ContinueOnError)
	programs := flags.String("programs", "", "`directory` of kube-apiserver and etcd")
	ours := flags.String("driver", "", "`program` qat_dra_driver")
	helper := flags.String("helper", "", "`program` helperdriver")
	intel := flags.String("intel", "", "`program` built from github.com/intel/"+
		"intel-resource-drivers-for-kubernetes/cmd/kubelet-qat-plugin")
	rounds := flags.Int("rounds", 2, "how often each driver takes its turn")
	doc := flags.String("doc", "", "Markdown `file` whose part between the markers becomes the results")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *programs == "" || *ours == "" || *helper == "" || *rounds < 1 {
		return errors.New("-programs, -driver and -helper are required, and -rounds must be positive; see -h")
	}
	drivers := []driver{
		{name: "this driver", program: *ours},
		{name: "helper", program: *helper},
		{name: "helper, QPS 1000", program: *helper, args: []string{"-qps=1000"}},
	}
	if *intel != "" {
		drivers = append(drivers, driver{name: "Intel's driver", program: *intel, static: true, max: 128})
	}
	dir, err := os.MkdirTemp("", "drabench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := controlplane.Start(ctx, controlplane.Options{Programs: *programs, Dir: dir})
	if err != nil {
		return err
	}
	defer c.Stop()
	api, err := newAPI(ctx, c, dir)
	if err != nil {
		return err
	}
	var results []result
	for _, vfs := range []int{64, 1024} {
		r := result{vfs: vfs, samples: make([]samples, len(drivers))}
		for round := range *rounds {
			for i := range drivers {
				if max := drivers[i].max; max > 0 && vfs > max {
					continue
				}
				fmt.Fprintf(os.Stderr, "drabench: %d VFs, round %d of %d: %s\n", vfs, round+1, *rounds, drivers[i].name)
				if err := turn(ctx, api, &drivers[i], vfs, &r.samples[i]); err != nil {
					return fmt.Errorf("%d VFs: %s: %w", vfs, drivers[i].name, err)
				}
			}
		}
		results = append(results, r)
	}
	text := table(drivers, results) + fmt.Sprintf(`
%d changes a round, %v to %v apart; a storm is a change every %v for %v. Rounds in turns: %d,
on %d CPUs (%s), %s, with kube-apiserver and etcd on the same machine.
`, changes, pause, 2*pause, stormPeriod, stormTime, *rounds, runtime.NumCPU(), measure.Processor(), runtime.Version())
	fmt.Print("\n", text)
	if *doc == "" {
		return nil
	}
	return measure.ReplaceResults(*doc, "bench-dra", text)
}
