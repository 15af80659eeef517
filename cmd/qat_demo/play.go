package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"qatplugin/kubeletapi/kubelettest"
)

// outcome is what came of an act.
type outcome struct {
	at    time.Time     // when it began
	told  bool          // the kubelet was told something
	knew  time.Duration // from the host's last step that decides (or from what the act says) to the list's arrival; negative: before it
	took  time.Duration // on the host, from the beginning to the step that decides
	bound int           // VFs that the plugin bound
	list  map[string]int
}

// play plays the acts one after another; the first that does not come out as it should ends it.
func play(ctx context.Context, s *stage, t *timeline, acts []act) error {
	for i, a := range acts {
		if i > 0 && s.o.pace > 0 {
			select {
			case <-time.After(s.o.pace):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		t.begin(a)
		out, err := playOne(ctx, s, a)
		if err != nil {
			t.failed(a, err)
			return fmt.Errorf("%q did not come out as it should: %w", a.what, err)
		}
		t.came(a, out)
	}
	return nil
}

func playOne(ctx context.Context, s *stage, a act) (*outcome, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.o.deadline, fmt.Errorf("not within %s", s.o.deadline))
	defer cancel()
	out := &outcome{at: time.Now(), told: a.want != nil}
	from, before := s.record.len(), len(s.host.Bound("vfio-pci"))
	if err := a.do(ctx, s); err != nil {
		return nil, because(ctx, err)
	}
	dead, stop := s.watchPlugin(ctx)
	defer stop()
	var arrived time.Time
	if a.want != nil {
		err := s.kubelet.Wait(dead, func(lists map[string]kubelettest.List) bool {
			var ok bool
			arrived, ok = matches(lists, a.want)
			return ok
		})
		if err != nil {
			return nil, fmt.Errorf("%w; the kubelet should hold %s and holds %s", because(dead, nil), listText(a.want), listText(healthy(s.kubelet.Lists())))
		}
	}
	// What the kubelet knows has been decided, but the operation may not be over; the host answers when it is.
	out.bound = len(s.host.Bound("vfio-pci")) - before
	decided := out.at
	for _, o := range s.record.since(from) {
		if o.Err == nil && o.Visible.After(decided) {
			decided = o.Visible
		}
	}
	out.took = decided.Sub(out.at)
	if a.since != nil {
		decided = a.since(s)
	}
	out.knew = arrived.Sub(decided)
	out.list = healthy(s.kubelet.Lists())
	return out, nil
}

// watchPlugin is a context that also ends when the plugin does.
func (s *stage) watchPlugin(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if s.plugin != nil {
		go func() {
			select {
			case <-s.plugin.ended:
				cancel(fmt.Errorf("the plugin has ended: %v", s.plugin.cmd.ProcessState))
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

// because is the reason for which ctx ended, or err.
func because(ctx context.Context, err error) error {
	if ctx.Err() == nil || err != nil && !errors.Is(err, ctx.Err()) {
		return err
	}
	return context.Cause(ctx)
}

// matches tells whether the kubelet holds exactly want, empty lists included, and when the last of the lists arrived.
func matches(lists map[string]kubelettest.List, want map[string]int) (time.Time, bool) {
	var last time.Time
	have := healthy(lists)
	for name, n := range want {
		if m, told := have[name]; !told || m != n {
			return last, false
		}
	}
	for name, l := range lists {
		if _, wanted := want[short(name)]; !wanted || !l.Live {
			return last, false
		}
		if l.Time.After(last) {
			last = l.Time
		}
	}
	return last, true
}

func healthy(lists map[string]kubelettest.List) map[string]int {
	n := map[string]int{}
	for name, l := range lists {
		n[short(name)] = 0
		for _, d := range l.Devices {
			if d.Health == "Healthy" {
				n[short(name)]++
			}
		}
	}
	return n
}

func short(resource string) string { return strings.TrimPrefix(resource, namespace) }

// end stops the plugin as the kubelet's node would, and looks whether it tidied up.
func (s *stage) end(t *timeline) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.o.deadline)
	defer cancel()
	began := time.Now()
	if err := s.plugin.terminate(ctx); err != nil {
		t.log()
		return fmt.Errorf("end the plugin: %w", err)
	}
	took := time.Since(began)
	var left []string
	sockets, err := filepath.Glob(filepath.Join(s.kubeletDir(), "*"))
	for _, f := range sockets {
		if filepath.Base(f) != kubelettest.SocketName {
			left = append(left, filepath.Base(f))
		}
	}
	if err != nil || len(left) > 0 {
		return fmt.Errorf("the plugin left %s in %s", strings.Join(left, ", "), s.kubeletDir())
	}
	t.ended(took)
	return nil
}
