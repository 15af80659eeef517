// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/klog/v2"
)

// FuzzReplay replays damaged recordings. Whatever a file contains, Replay returns.
func FuzzReplay(f *testing.F) {
	files, err := filepath.Glob("testdata/recordings/*.ndjson")
	must(f, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(f, err)
		lines := bytes.SplitAfterN(text, []byte("\n"), 12)
		f.Add(bytes.Join(lines[:len(lines)-1], nil))
	}
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	f.Fuzz(func(t *testing.T, text []byte) {
		replayed, err := Replay(bytes.NewReader(text))
		if err == nil && len(replayed.Recordings) == 0 {
			t.Error("no recording and no error")
		}
		for _, r := range replayed.Recordings {
			_ = r.Tree.String()
		}
	})
}
