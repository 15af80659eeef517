package kernelmode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
	"qatplugin/events"
	"qatplugin/internal/lookalike"
)

// sourceFunc is a source as a function.
type sourceFunc func(ctx context.Context, sink events.Sink) error

func (f sourceFunc) Run(ctx context.Context, sink events.Sink) error { return f(ctx, sink) }

func TestASourceThatBreaksIsOpenedAgainAndMissedMeanwhile(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	h.up(t, h.addPF(t, 0, addressA))
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
	synctest.Test(t, func(t *testing.T) {
		cfg := h.config()
		var opened []string // at which second, and how it went
		started := time.Now()
		cfg.Sources = []func() (events.Source, error){func() (events.Source, error) {
			at := fmt.Sprint(time.Since(started).Round(time.Second))
			switch opened = append(opened, at); len(opened) {
			case 1, 3, 4:
				return nil, errors.New("cannot be opened")
			case 2:
				return sourceFunc(func(context.Context, events.Sink) error {
					time.Sleep(time.Second) // of the test's own clock
					return errors.New("broken")
				}), nil
			}
			return sourceFunc(func(ctx context.Context, _ events.Sink) error { <-ctx.Done(); return nil }), nil
		}}
		p, err := New(cfg)
		must(t, err)
		var runs, trees atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- p.watch(ctx, func(context.Context) ([]byte, error) { runs.Add(1); return []byte(h.statusText()), nil }, func(*devtree.Tree) { trees.Add(1) })
		}()
		pass(time.Hour)
		if diff := cmp.Diff([]string{"0s", "1s", "4s", "8s", "16s"}, opened); diff != "" {
			t.Errorf("opened at (-want +got):\n%s", diff)
		}
		if got := runs.Load(); got != 4 || trees.Load() != 1 { // at the start, when the source broke, and twice when it was there again
			t.Errorf("adf_ctl ran %d times and %d Trees were published, want 4 and 1", got, trees.Load())
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// While nothing is heard, everything is looked at twice a minute.
func TestADeafPluginLooksMoreOften(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	h.up(t, h.addPF(t, 0, addressA))
	h.conf(t, "c6xx_dev0", sec("SSL", 1, 1, 0))
	synctest.Test(t, func(t *testing.T) {
		cfg := h.config()
		cfg.Sources = []func() (events.Source, error){func() (events.Source, error) { return nil, errors.New("cannot be opened") }}
		p, err := New(cfg)
		must(t, err)
		var tree atomic.Pointer[devtree.Tree]
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- p.watch(ctx, func(context.Context) ([]byte, error) { return []byte(h.statusText()), nil }, func(t *devtree.Tree) { tree.Store(t) })
		}()
		pass(time.Second)
		must(t, os.Remove(filepath.Join(h.etc, "c6xx_dev0.conf")))
		pass(deafAuditInterval + auditSettle)
		if got := tree.Load().Resource("cy1_dc0").Len(); got != 0 {
			t.Errorf("%d units are listed whose file has gone", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Until adf_ctl has answered, nothing is known of the devices.
func TestTheFirstLookIsDoneWhenADFCtlHasAnswered(t *testing.T) {
	h := newTestHost(t, lookalike.WithoutIOMMU())
	h.up(t, h.addPF(t, 0, addressA))
	synctest.Test(t, func(t *testing.T) {
		p, err := New(h.config())
		must(t, err)
		var answers atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- p.watch(ctx, func(context.Context) ([]byte, error) {
				if !answers.Load() {
					return nil, errors.New("no such program")
				}
				return []byte(h.statusText()), nil
			}, func(*devtree.Tree) {})
		}()
		pass(time.Minute)
		if p.CheckFirstLook(ctx) == nil {
			t.Error("it is done though adf_ctl never answered")
		}
		answers.Store(true)
		pass(time.Hour)
		if err := p.CheckFirstLook(ctx); err != nil {
			t.Errorf("after an answer: %v", err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
