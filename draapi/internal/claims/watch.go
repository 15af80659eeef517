// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"qatplugin/internal/dirwatch"
	"qatplugin/internal/retry"
)

const (
	pollInterval   = 10 * time.Second // between looks at a directory that cannot be watched or read
	repeatInterval = 10 * time.Minute // between log messages of an error that persists
)

// Watch reads what other processes have prepared and unprepared, at once and whenever a file
// changes, until ctx ends. If the directory cannot be watched, it reads it every 10 s. A call for a
// claim does not wait for Watch, and reads the directory itself.
func (s *Store) Watch(ctx context.Context) {
	var watch *dirwatch.Watch // nil if the directory cannot be watched
	defer func() { watch.Close() }()
	errorLog := retry.ErrorLog{Log: s.Log, Interval: repeatInterval}
	for ctx.Err() == nil {
		if watch == nil {
			var err error
			if watch, err = dirwatch.New(s.CDIDir); err != nil {
				errorLog.Report(err, "Cannot watch the CDI directory, polling it",
					"directory", s.CDIDir, "interval", pollInterval)
			} else {
				errorLog.Clear()
			}
		}
		err := s.Load()
		if err != nil {
			s.Log.V(2).Info("Cannot read the prepared claims, trying again", "reason", err.Error())
		}
		if !s.await(ctx, watch, err != nil) {
			watch.Close()
			watch = nil
		}
	}
}

// await returns when the files of claims may have changed or ctx has ended and, if there is no
// watch or poll is set, after pollInterval. It returns false if the watch must be replaced.
func (s *Store) await(ctx context.Context, watch *dirwatch.Watch, poll bool) (keep bool) {
	var expired <-chan time.Time
	if poll || watch == nil {
		timer := time.NewTimer(pollInterval)
		defer timer.Stop()
		expired = timer.C
	}
	var events <-chan fsnotify.Event
	var failures <-chan error
	if watch != nil {
		events, failures = watch.Events, watch.Errors
	}
	for {
		select {
		case <-ctx.Done():
			return true
		case <-expired:
			return true
		case err := <-failures:
			return errors.Is(err, fsnotify.ErrEventOverflow)
		case event := <-events:
			name := filepath.Base(event.Name)
			switch {
			case watch.Moved(event):
				return false
			case strings.HasPrefix(name, s.prefix()) && strings.HasSuffix(name, ".json"):
				return true
			}
		}
	}
}
