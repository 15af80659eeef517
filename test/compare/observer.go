// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"qatplugin/internal/measure"
)

const (
	scrapeInterval = 15 * time.Second // of Prometheus
	eventPause     = 60 * time.Millisecond
	eventChanges   = 200 // in each round
)

// An observer looks into a plugin as a status page and a Prometheus do.
type observer struct {
	address string
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex // guards all following fields
	scrapes int        // that succeeded
	bytes   int64      // of the page's events
	err     error
}

// newObserver chooses the address at which the plugin must serve.
func newObserver() (*observer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return &observer{address: l.Addr().String()}, nil
}

// start begins to look. The plugin has sent its first list by then, and so it serves.
func (o *observer) start() {
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel = cancel
	o.running.Go(func() { o.fail(ctx, o.watch(ctx)) })
	o.running.Go(func() { o.fail(ctx, o.scrape(ctx)) })
}

// stop ends the looks. It returns an error if one failed.
func (o *observer) stop() error {
	if o.cancel == nil {
		return nil
	}
	o.cancel()
	o.running.Wait()
	if o.err == nil && (o.scrapes == 0 || o.bytes == 0) {
		return fmt.Errorf("the observer saw nothing: %d scrapes, %d bytes of events", o.scrapes, o.bytes)
	}
	return o.err
}

func (o *observer) fail(ctx context.Context, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if ctx.Err() == nil {
		o.err = errors.Join(o.err, err)
	}
}

func (o *observer) get(ctx context.Context, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.address+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err == nil && response.StatusCode != http.StatusOK {
		response.Body.Close()
		err = fmt.Errorf("GET %s: %s", path, response.Status)
	}
	return response, err
}

// Write counts the bytes of the events.
func (o *observer) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes += int64(len(p))
	return len(p), nil
}

// watch reads the events that the status page reads.
func (o *observer) watch(ctx context.Context) error {
	response, err := o.get(ctx, "/events")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err = io.Copy(o, response.Body); err == nil {
		err = errors.New("the plugin ended the events")
	}
	return err
}

// scrape reads the metrics, as Prometheus does.
func (o *observer) scrape(ctx context.Context) error {
	for ticker := time.NewTicker(scrapeInterval); ; {
		response, err := o.get(ctx, "/metrics")
		if err != nil {
			return err
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil && !bytes.Contains(text, []byte("\nqat_plugin_")) {
			err = errors.New("GET /metrics: no metrics of the plugin")
		}
		if err != nil {
			return err
		}
		o.mu.Lock()
		o.scrapes++
		o.mu.Unlock()
		select {
		case <-ctx.Done():
			ticker.Stop()
			return nil
		case <-ticker.C:
		}
	}
}

// measureEvents unbinds a VF and binds it again, by its driver link alone, and measures how long
// the kubelet waits for each list.
func measureEvents(h *host, p *measure.Process, s samples) error {
	vf := h.vfs[len(h.vfs)/2]
	link := filepath.Join(h.Path(vf), "driver")
	var took []time.Duration
	for i := range eventChanges {
		time.Sleep(eventPause)
		from, to, health := link, link+".away", "Unhealthy" // its node still exists
		if i%2 == 1 {
			from, to, health = to, from, "Healthy"
		}
		start := time.Now()
		if err := os.Rename(from, to); err != nil {
			return err
		}
		l, err := h.awaitHealth(p, vf, health)
		if err != nil {
			return err
		}
		took = append(took, l.Time.Sub(start))
	}
	slices.Sort(took)
	s.add(rowEvent, milliseconds(took[len(took)/2]))
	return nil
}
