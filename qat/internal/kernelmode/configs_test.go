// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// overwrite writes a file in place, as an editor or cp does, and delivers the event.
func (r *testRun) overwrite(name, text string) {
	r.t.Helper()
	must(r.t, os.WriteFile(name, []byte(text), 0o600))
	r.wrote(name)
	synctest.Wait()
}

// A program that writes a file in place truncates it first. Between its steps the file is empty, or
// holds a beginning that may or may not be INI.
func TestHalfWrittenConfigurationFileChangesNothing(t *testing.T) {
	whole := sec("SSL", 12, 1, 0)
	for name, beginning := range map[string]string{
		"empty":                         "",
		"without sections":              "[GENERAL]\n",
		"in the middle of a section":    "[SSL]\nNumberCyInst",
		"in the middle of a number":     "[SSL]\nNumberCyInstances = 1\nNumberDcInstances = 0\nNumProcesses = 1",
		"in the middle of a line break": strings.TrimSuffix(whole, "\n"),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
				file := r.confPath("c6xx_dev0")
				r.expectUnits("SSL_dev0_0")
				before := r.tree.Load()
				r.overwrite(file, "")
				r.overwrite(file, beginning)
				pass(configQuiet - time.Millisecond)
				r.overwrite(file, whole)
				pass(configQuiet - time.Millisecond)
				if tree := r.tree.Load(); tree != before {
					t.Errorf("while the file is written the units are %v", units(tree))
				}
				r.expectSkipped(map[string]string{})
				pass(time.Millisecond)
				if got := len(units(r.tree.Load())["cy1_dc0"]); got != 12 {
					t.Errorf("afterwards there are %d units, want 12", got)
				}
			})
		})
	}
}

// A file that stays bad changes nothing but what the log says about it, until it is repaired.
func TestBadConfigurationFileKeepsTheUnits(t *testing.T) {
	logged := captureLog(t)
	inBubble(t, time.Minute, nil, func(t *testing.T, r *testRun, d *testDevice) {
		file := r.confPath("c6xx_dev0")
		r.overwrite(file, "\n# SSL\n[SSL\nNumProcesses = 2\n")
		pass(configQuiet)
		r.expectUnits("SSL_dev0_0")
		reason := `parse "` + file + `": line 3: unclosed section: [SSL; what it said before stays valid`
		r.expectSkipped(map[string]string{"c6xx_dev0.conf": reason})
		pass(time.Hour)
		r.expectUnits("SSL_dev0_0")
		r.down(t, d)
		r.wrote(file)
		r.expectUnits()
		r.up(t, d)
		r.wrote(file)
		r.expectUnits("SSL_dev0_0")
		r.overwrite(file, sec("SSL", 2, 1, 0))
		pass(configQuiet)
		r.expectUnits("SSL_dev0_0", "SSL_dev0_1")
		r.expectSkipped(map[string]string{})
	})
	if lines := logged("line 3: unclosed section"); len(lines) != 1 {
		t.Errorf("the error was logged %d times, want once: %q", len(lines), lines)
	}
}

// Until a new file has been quiet, nothing of it counts.
func TestNewConfigurationFileCountsWhenItIsQuiet(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		file := r.confPath("c6xx_dev1")
		r.up(t, r.addPF(t, 1, addressB))
		r.overwrite(file, "[GENERAL]\n")
		r.expectUnits("SSL_dev0_0")
		r.expectSkipped(map[string]string{"c6xx_dev1": `"` + file + `" is new and may still be written`})
		r.overwrite(file, sec("SHIM", 1, 1, 0))
		r.expectUnits("SSL_dev0_0")
		pass(configQuiet)
		r.expectUnits("SHIM_dev1_0", "SSL_dev0_0")
		r.expectSkipped(map[string]string{})
	})
}

func TestRemovedConfigurationFileCounts(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		file := r.confPath("c6xx_dev0")
		must(t, os.Rename(file, file+".old"))
		r.wrote(file)
		r.expectUnits("SSL_dev0_0") // an editor renames the file before it writes the new one
		must(t, os.Rename(file+".old", file))
		r.wrote(file)
		pass(time.Minute)
		r.expectUnits("SSL_dev0_0")

		must(t, os.Remove(file))
		r.wrote(file)
		pass(configQuiet)
		r.expectUnits()
		r.expectSkipped(map[string]string{"c6xx_dev0": "open " + file + ": no such file or directory"})
	})
}

// A file that cannot be read is not a file that is gone.
func TestUnreadableConfigurationFileKeepsTheUnits(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		file := r.confPath("c6xx_dev0")
		must(t, os.Remove(file))
		must(t, os.Mkdir(file, 0o700))
		r.wrote(file)
		pass(time.Minute)
		r.expectUnits("SSL_dev0_0")
		reason := "read " + file + ": is a directory; what it said before stays valid"
		r.expectSkipped(map[string]string{"c6xx_dev0.conf": reason})
	})
}

// Reading /proc/self/mem at 0 gives EIO, which says nothing about the file.
func TestTransientErrorOfAConfigurationFileIsRetried(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		file := r.confPath("c6xx_dev0")
		must(t, os.Remove(file))
		must(t, os.Symlink("/proc/self/mem", file))
		r.wrote(file)
		pass(time.Minute)
		r.expectUnits("SSL_dev0_0")
		reason := "read " + file + ": input/output error; what it said before stays valid"
		r.expectSkipped(map[string]string{"c6xx_dev0.conf": reason})
		must(t, os.Remove(file))
		must(t, os.WriteFile(file, []byte(sec("SSL", 2, 1, 0)), 0o600))
		pass(configRetry + configQuiet)
		r.expectUnits("SSL_dev0_0", "SSL_dev0_1")
		r.expectSkipped(map[string]string{})
		if next := r.state.Load().Next; !next.IsZero() {
			t.Errorf("Reconcile is due at %v", next)
		}
	})
}

// A file that never rests must not keep the plugin busy.
func TestFileThatChangesAllTheTimeIsReadAtItsEvents(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		for n := range 100 {
			r.overwrite(r.confPath("c6xx_dev0"), sec("SSL", n+1, 1, 0))
			pass(configQuiet / 2)
		}
		r.expectUnits("SSL_dev0_0")
		pass(configQuiet)
		if got := len(units(r.tree.Load())["cy1_dc0"]); got != 100 {
			t.Errorf("afterwards there are %d units, want 100", got)
		}
		if next := r.state.Load().Next; !next.IsZero() {
			t.Errorf("Reconcile is due at %v", next)
		}
	})
}

// An audit sees a change that no event reported. The file need not wait again when the second look
// accepts it.
func TestAuditOfAConfigurationFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c6xx_dev0.conf")
	write := func(text string) { must(t, os.WriteFile(file, []byte(text), 0o600)) }
	write(sec("SSL", 1, 1, 0))
	c := configs{dir: dir, files: map[string]*configFile{}}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	processes := func(counts map[string]config) int { return counts["c6xx_dev0.conf"].sections[0].Processes }
	c.look(now)
	write(sec("SSL", 2, 1, 0))
	if n := processes(c.audit(now)); n != 2 {
		t.Errorf("the audit finds %d processes, want 2", n)
	}
	if next := c.next(); !next.IsZero() {
		t.Errorf("after an audit the file is due at %v", next)
	}
	if n := processes(c.look(now.Add(configQuiet - 1))); n != 1 {
		t.Errorf("before the file was quiet there are %d processes, want 1", n)
	}
	if n := processes(c.look(now.Add(configQuiet))); n != 2 {
		t.Errorf("after the file was quiet there are %d processes, want 2", n)
	}
}
