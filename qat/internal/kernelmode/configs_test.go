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

// A file that stays invalid has no effect but a log message, until it is repaired.
func TestBadConfigurationFileKeepsTheUnits(t *testing.T) {
	logged := captureLog(t)
	inBubble(t, time.Minute, nil, func(t *testing.T, r *testRun, d *testDevice) {
		file := r.confPath("c6xx_dev0")
		r.overwrite(file, "\n# SSL\n[SSL\nNumProcesses = 2\n")
		pass(configQuiet)
		r.expectUnits("SSL_dev0_0")
		reason := `parse "` + file + `": line 3: unclosed section: [SSL; the last valid content stays in effect`
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

// A new file has no effect until it has stayed the same for configQuiet.
func TestNewConfigurationFileTakesEffectAfterTheQuietTime(t *testing.T) {
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

func TestRemovedConfigurationFileTakesEffect(t *testing.T) {
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

// A file that cannot be read is not treated like a removed file.
func TestUnreadableConfigurationFileKeepsTheUnits(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		file := r.confPath("c6xx_dev0")
		must(t, os.Remove(file))
		must(t, os.Mkdir(file, 0o700))
		r.wrote(file)
		pass(time.Minute)
		r.expectUnits("SSL_dev0_0")
		reason := "read " + file + ": is a directory; the last valid content stays in effect"
		r.expectSkipped(map[string]string{"c6xx_dev0.conf": reason})
	})
}

// Reading /proc/self/mem at 0 returns EIO, which is a transient error.
func TestTransientErrorOfAConfigurationFileIsRetried(t *testing.T) {
	inBubble(t, 0, nil, func(t *testing.T, r *testRun, _ *testDevice) {
		file := r.confPath("c6xx_dev0")
		must(t, os.Remove(file))
		must(t, os.Symlink("/proc/self/mem", file))
		r.wrote(file)
		pass(time.Minute)
		r.expectUnits("SSL_dev0_0")
		reason := "read " + file + ": input/output error; the last valid content stays in effect"
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

// A file that keeps changing must not keep the plugin busy.
func TestFileThatKeepsChangingIsReadOnlyAtEvents(t *testing.T) {
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

// An audit finds a change that no event reported. The file need not stay the same for another
// configQuiet when the next update accepts it.
func TestAuditOfAConfigurationFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c6xx_dev0.conf")
	write := func(text string) { must(t, os.WriteFile(file, []byte(text), 0o600)) }
	write(sec("SSL", 1, 1, 0))
	c := configs{dir: dir, files: map[string]*configFile{}}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	processes := func(counts map[string]config) int { return counts["c6xx_dev0.conf"].sections[0].Processes }
	c.update(now)
	write(sec("SSL", 2, 1, 0))
	if n := processes(c.audit(now)); n != 2 {
		t.Errorf("the audit finds %d processes, want 2", n)
	}
	if next := c.next(); !next.IsZero() {
		t.Errorf("after an audit the file is due at %v", next)
	}
	if n := processes(c.update(now.Add(configQuiet - 1))); n != 1 {
		t.Errorf("before the file was quiet there are %d processes, want 1", n)
	}
	if n := processes(c.update(now.Add(configQuiet))); n != 2 {
		t.Errorf("after the file was quiet there are %d processes, want 2", n)
	}
}
