// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"context"
	"errors"
	"io"

	"qatplugin/qat/internal/dpdk"
)

// WriteRecording writes what the recorder of ModeDPDK holds to w, as lines of JSON: the newest
// decisions about VFs with the facts on which they depend, and the events of the Journal. Once an
// audit has found drift, a recording of what led to the first drift comes first. [Replay] reads the
// result.
//
// WriteRecording does not wait for the event loop, so it also works while the kernel blocks the
// loop. The events of the last 2 ms can be missing. It returns an error if nothing is recorded.
func (p *Plugin) WriteRecording(ctx context.Context, w io.Writer) error {
	switch {
	case p.config.Mode == ModeKernel:
		return errors.New("mode kernel has no recorder")
	case p.recorder == nil:
		return errors.New("the recorder is switched off")
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return p.recorder.Write(w)
}

// Replayed is the result of [Replay].
type Replayed struct {
	// Recordings are the recordings in the order in which they were written: if there was drift,
	// the one that led to it, and then the last one.
	Recordings []*Recording
}

// A Recording is a recording that was replayed.
type Recording = dpdk.Recording

// Replay reads what WriteRecording has written. It decides again on the recorded facts, follows the
// lists, and compares both with what is recorded; see [Recording]. An error names the line that
// cannot be read, or says that the end is missing. Replay then also returns what comes before it.
func Replay(r io.Reader) (*Replayed, error) {
	recordings, err := dpdk.Replay(r)
	return &Replayed{recordings}, err
}
