// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"qatplugin/internal/testenv"
)

func TestUsageOfThisProcessGrows(t *testing.T) {
	before, err := UsageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for range 1 << 20 {
		_ = os.Getpid()
	}
	after, err := UsageOf(os.Getpid())
	if err != nil || after.CPU <= before.CPU {
		t.Errorf("CPU %v, then %v (%v), want more", before.CPU, after.CPU, err)
	}
	if kib, err := Resident(os.Getpid()); err != nil || kib < 100 {
		t.Errorf("resident %d KiB (%v), want more", kib, err)
	}
}

func TestProgramFindsMounts(t *testing.T) {
	program, err := exec.LookPath("sh")
	if err != nil {
		testenv.Skip(t, "sh not found")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mounts := []Mount{{Target: "/var/lib"}, {Source: dir, Target: "/var/lib/measure/x"}}
	p, err := Start(program, []string{"-c", "cat /var/lib/measure/x/file; ls /var/lib"}, mounts)
	if err != nil {
		testenv.Skip(t, err.Error())
	}
	<-p.Ended
	if got, want := p.LastLines(9), "text\nmeasure"; got != want {
		t.Errorf("the program saw %q, want %q", got, want)
	}
	if p.Alive() {
		t.Error("the program is alive after its end")
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}
