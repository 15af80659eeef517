// SPDX-License-Identifier: Apache-2.0

// Command fleet runs the DRA drivers of many nodes in one process against a real API server, and
// measures what the fleet costs. See docs/scale.md.
//
//	fleet -programs DIR [-sizes N,N...] [-doc FILE]
//
// DIR has the programs kube-apiserver and etcd, which test/cluster/programs.sh builds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"qatplugin/internal/measure"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

// settings are the values of the flags.
type settings struct {
	programs string
	sizes    []int // numbers of nodes
	compared int   // number of nodes for the comparison with upstream's helper
	doc      string
}

func parse(args []string) (*settings, error) {
	s := &settings{}
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	flags.StringVar(&s.programs, "programs", "", "`directory` of kube-apiserver and etcd")
	sizes := flags.String("sizes", "10,100,300,1000", "comma-separated `numbers` of nodes")
	flags.IntVar(&s.compared, "compared", 100, "`number` of nodes with drivers on upstream's helper; 0: none")
	flags.StringVar(&s.doc, "doc", "", "Markdown `file` whose part between the markers becomes the results")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if s.programs == "" {
		return nil, errors.New("-programs is required; see -h")
	}
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-sizes: invalid number %q: must be positive", text)
		}
		s.sizes = append(s.sizes, n)
	}
	return s, nil
}

func run(ctx context.Context, args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	silence()
	began := time.Now()
	var results, compared []result
	var sizes []sizeResult
	for i, n := range s.sizes {
		r, size, err := measureFleet(ctx, s.programs, n, nil, i == len(s.sizes)-1)
		if err != nil {
			return fmt.Errorf("%d nodes: %w", n, err)
		}
		results, sizes = append(results, r...), append(sizes, size)
	}
	if s.compared > 0 {
		for _, d := range drivers {
			r, _, err := measureFleet(ctx, s.programs, s.compared, &d, false)
			if err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
			compared = append(compared, r...)
		}
	}
	var capacities []capacity
	for _, l := range loads {
		note("API server: %d devices in a slice, %d watches", l.devices, l.watches)
		c, err := measureCapacity(ctx, s.programs, l)
		if err != nil {
			return err
		}
		capacities = append(capacities, c)
	}
	text := fleetTable("nodes", results) + "\n" + sizeTable(sizes) + "\n"
	if s.compared > 0 {
		text += fleetTable(fmt.Sprintf("driver on %d nodes", s.compared), compared) + "\n"
	}
	largest, watched := sizes[len(sizes)-1], capacities[len(capacities)-2]
	text += capacityTable(capacities) + "\n" + extrapolation(&largest, &capacities[0], &watched) + fmt.Sprintf(
		"\n%d CPUs (%s) for the API server, etcd and all drivers, %s. The run took %v.\n",
		runtime.NumCPU(), measure.Processor(), runtime.Version(), time.Since(began).Round(time.Second))
	fmt.Print("\n", text)
	if s.doc == "" {
		return nil
	}
	return measure.ReplaceResults(s.doc, "fleet", text)
}

func note(format string, args ...any) { fmt.Fprintf(os.Stderr, "fleet: "+format+"\n", args...) }
