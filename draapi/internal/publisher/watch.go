// SPDX-License-Identifier: Apache-2.0

package publisher

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"qatplugin/internal/retry"
)

// selector selects the slices of the driver on its node.
func (p *Publisher) selector() string {
	return fields.Set{
		resourcev1.ResourceSliceSelectorNodeName: p.config.Node,
		resourcev1.ResourceSliceSelectorDriver:   p.config.Driver,
	}.String()
}

// runWatch keeps the cache up to date until ctx ends.
func (p *Publisher) runWatch(ctx context.Context) {
	logged := retry.ErrorLog{Log: p.log, Interval: errorInterval}
	note := func(err error) {
		if ctx.Err() != nil {
			return
		}
		if failure := (*url.Error)(nil); errors.As(err, &failure) {
			err = failure.Err // without the URL, which contains a random timeout
		}
		if apierrors.IsNotFound(err) {
			err = fmt.Errorf("%w: upgrade to Kubernetes 1.34 or newer, which has resource.k8s.io/v1", err)
		}
		p.mu.Lock()
		p.watchErr = err
		p.mu.Unlock()
		switch {
		case err != nil:
			logged.Report(err, "Could not watch ResourceSlices, retrying")
		case logged.Clear():
			p.log.Info("Watching ResourceSlices again")
		}
	}
	opened := false // a watch, since the last pause
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			opts.FieldSelector = p.selector()
			list, err := p.config.Client.ListSlices(ctx, opts)
			note(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			opts.FieldSelector = p.selector()
			w, err := p.config.Client.WatchSlices(ctx, opts)
			if opts.SendInitialEvents == nil || !apierrors.IsInvalid(err) { // else the Reflector lists instead
				note(err)
			}
			opened = opened || err == nil
			return w, err
		},
	}
	ctx = klog.NewContext(ctx, klog.Logger{}) // note logs, and not for each attempt
	pause := retry.BackOff{First: firstPause, Limit: maxPause, FullJitter: true}
	// The pauses of a Reflector grow until it has not paused for two minutes, even if it has
	// reached the API server meanwhile. After a restart of the API server it would pause twice:
	// until the API server accepts the watch, and once more because that does not know its
	// resource version. So its Run method is not used, and a watch that begins again gets a new
	// Reflector.
	for again := false; ctx.Err() == nil; again = opened {
		opened = false
		began := time.Now()
		reflector := cache.NewReflectorWithOptions(source, &resourcev1.ResourceSlice{}, p.cache, cache.ReflectorOptions{
			Logger: &klog.Logger{},
			Name:   "ResourceSlices",
			Backoff: &wait.Backoff{
				Duration: firstPause,
				Cap:      maxPause / 2, // which Jitter doubles
				Steps:    math.MaxInt32,
				Factor:   2,
				Jitter:   1,
			},
		})
		_ = reflector.ListAndWatchWithContext(ctx)              // note has the error
		if opened && (!again || time.Since(began) > maxPause) { // not if watches end at once, one after another
			pause.Reset()
		}
		timer := time.NewTimer(pause.Next())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}
