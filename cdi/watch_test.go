// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWatchWakesTheWriter(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(spec string, l *lock) error
		moved  bool // another directory is to be watched then
	}{
		{"spec replaced", func(spec string, _ *lock) error { return replaceFile(spec, []byte("{}")) }, false},
		{"spec written in place", func(spec string, _ *lock) error { return os.WriteFile(spec, nil, 0o644) }, false},
		{"spec removed", func(spec string, _ *lock) error { return os.Remove(spec) }, false},
		{"owner ended", func(_ string, l *lock) error { l.abandon(); return nil }, false},
		{"owner has removed its file", func(spec string, l *lock) error { return l.remove(spec) }, false},
		{"lock removed", func(spec string, _ *lock) error { return os.Remove(lockPath(spec)) }, false},
		{"directory moved away", func(spec string, _ *lock) error {
			return os.Rename(filepath.Dir(spec), filepath.Dir(spec)+".away")
		}, true},
		{"directory removed", func(spec string, l *lock) error {
			err := os.RemoveAll(filepath.Dir(spec))
			l.release()
			return err
		}, true},
		{"directory exchanged", func(spec string, _ *lock) error {
			other := filepath.Dir(spec) + ".other"
			if err := os.Mkdir(other, 0o755); err != nil {
				return err
			}
			if err := os.Rename(filepath.Dir(spec), other+".away"); err != nil {
				return err
			}
			return os.Rename(other, filepath.Dir(spec))
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "cdi")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			c := &Config{Dir: dir, Vendor: vendor}
			spec := c.specPath("vf", 1)
			writeFile(t, spec, "{}")
			l, err := acquire(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer l.release()
			woken := make(chan struct{}, 1)
			w, err := watchDir(dir, c.isRelevant, func() {
				select {
				case woken <- struct{}{}:
				default:
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			defer w.close()
			if !w.watches(stat(t, dir)) {
				t.Error("the directory is not watched")
			}
			if err := tt.change(spec, l); err != nil {
				t.Fatal(err)
			}
			select {
			case <-woken:
			case <-time.After(20 * time.Second):
				t.Fatal("the Writer was not woken")
			}
			if now, err := os.Stat(dir); err == nil && w.watches(now) == tt.moved {
				t.Errorf("the directory was moved: %t, and is watched: %t", tt.moved, w.watches(now))
			}
		})
	}
}

func TestDirectoryThatIsMissingIsNotWatched(t *testing.T) {
	w, err := watchDir(filepath.Join(t.TempDir(), "missing"), nil, nil)
	if err == nil {
		w.close()
		t.Error("no error")
	}
}
