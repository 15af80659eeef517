// SPDX-License-Identifier: Apache-2.0

// Command compare runs this plugin and the one that Intel publishes as processes on the same
// look-alike host, alternately, and measures both. Package kubelettest takes the place of the
// kubelet. It prints a table, and writes the table and a plot into the documentation.
//
//	compare -ours FILE -published FILE [-doc FILE] [-plot FILE]
//	compare -ours FILE -observed [-doc FILE]
//
// With -observed it compares this plugin with itself: without -http-address, with it, and while a
// status page is open and Prometheus scrapes it.
//
// Each plugin runs in a mount namespace of its own, in which /sys, /dev and
// /var/lib/kubelet/device-plugins are those of the look-alike host: the published plugin has no
// flags for them. That takes root or a kernel that allows user namespaces.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"qatplugin/internal/measure"
)

func main() {
	measure.Child()
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// settings are the values of the flags.
type settings struct {
	ours, published string
	sizes           []int // numbers of VFs
	rounds          int
	idle            time.Duration
	floor           string
	doc, plot       string
	observed        bool
}

// plugins returns what is compared.
func (s *settings) plugins() []plugin {
	if s.observed {
		return []plugin{
			{name: "closed", program: s.ours},
			{name: "open", program: s.ours, serves: true},
			{name: "observed", program: s.ours, serves: true, observed: true},
		}
	}
	return []plugin{
		{name: "this plugin", program: s.ours},
		{name: "published plugin", program: s.published, args: []string{"-max-num-devices", "65536"}},
	}
}

func run(args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	plugins := s.plugins()
	var results []sizeResult
	for _, n := range s.sizes {
		r, err := measureSize(n, plugins, s)
		if err != nil {
			return fmt.Errorf("%d VFs: %w", n, err)
		}
		results = append(results, r)
	}
	text := table(results) + conditions(s)
	if s.floor != "" {
		benchmarks, err := os.ReadFile(s.floor)
		if err != nil {
			return err
		}
		floors, err := floorTable(string(benchmarks))
		if err != nil {
			return err
		}
		text = floors + "\n" + text
	}
	fmt.Print("\n", text)
	if s.doc != "" {
		target := "bench-compare"
		if s.observed {
			target = "bench-observed"
		}
		if err := measure.ReplaceResults(s.doc, target, text); err != nil {
			return err
		}
	}
	if s.plot != "" {
		return drawPlot(s.plot, results)
	}
	return nil
}

func parse(args []string) (*settings, error) {
	s := &settings{}
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.StringVar(&s.ours, "ours", "", "`program` of this project")
	flags.StringVar(&s.published, "published", "", "`program` built from "+
		"github.com/intel/intel-device-plugins-for-kubernetes/cmd/qat_plugin")
	flags.BoolVar(&s.observed, "observed", false, "measure what it costs to look into the plugin")
	sizes := flags.String("sizes", "16,64,256,1024,4096", "comma-separated `numbers` of VFs, multiples of 16")
	flags.IntVar(&s.rounds, "rounds", 3, "how often each plugin takes its turn")
	flags.DurationVar(&s.idle, "idle", 10*time.Second, "how long the idle plugin is measured in each round")
	flags.StringVar(&s.floor, "floor", "", "`file` with the output of BenchmarkEventToKubelet, for a table of it")
	flags.StringVar(&s.doc, "doc", "", "Markdown `file` whose part between the markers becomes the results")
	flags.StringVar(&s.plot, "plot", "", "`file` of the plot, such as x.svg")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if s.ours == "" || (s.published == "") != s.observed {
		return nil, errors.New("-ours is required, and either -published or -observed; see -h")
	}
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 16 || n%16 != 0 || n > maxVFs {
			return nil, fmt.Errorf("-sizes: invalid number %q: must be a multiple of 16, at most %d", text, maxVFs)
		}
		s.sizes = append(s.sizes, n)
	}
	slices.Sort(s.sizes)
	if s.rounds < 1 {
		return nil, fmt.Errorf("-rounds: invalid number %d: must be positive", s.rounds)
	}
	if s.idle < 2*scanPeriod {
		return nil, fmt.Errorf("-idle: invalid time %v: must be at least %v, because both plugins look at "+
			"heartbeats every %v", s.idle, 2*scanPeriod, scanPeriod)
	}
	return s, nil
}
