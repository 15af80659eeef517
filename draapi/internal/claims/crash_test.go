// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	childDir  = "CLAIMS_TEST_DIR"  // makes a test binary run runChild with this directory
	childKill = "CLAIMS_TEST_KILL" // where it kills itself; "" to prepare claims until it is killed
)

// runChild prepares claims in dir, like a driver that is killed at some time.
func runChild(dir string) {
	s := newStore(&testing.T{}, dir, "1", "2")
	ref := s.allocate("a", "uid-a", "1", "2")
	die := func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) }
	switch os.Getenv(childKill) {
	case "before":
		s.BeforeWrite = func(context.Context, *Claim) error {
			die()
			return nil
		}
	case "after": // between the write of the file and the answer
		s.Changed = func() {
			if _, err := os.Stat(s.path("uid-a")); err == nil {
				die()
			}
		}
	}
	for i := 0; ; i++ {
		if _, err := s.Prepare(context.Background(), ref); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(i)
		if _, err := s.Unprepare(context.Background(), ref); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// startChild starts a process that runs runChild.
func startChild(t *testing.T, dir, kill string) (*exec.Cmd, io.Reader) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir, childKill+"="+kill)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return child, out
}

// The kubelet has no answer, and asks the next process.
func TestDriverIsKilledInPrepare(t *testing.T) {
	for kill, wantFile := range map[string]bool{"before": false, "after": true} {
		t.Run(kill, func(t *testing.T) {
			dir := t.TempDir()
			child, out := startChild(t, dir, kill)
			if text, _ := io.ReadAll(out); len(text) > 0 {
				t.Errorf("output of the process: %s", text)
			}
			_ = child.Wait()
			if status := child.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
				t.Fatalf("the process ended with %v", child.ProcessState)
			}
			s := newStore(t, dir, "1", "2")
			if err := s.Load(); err != nil {
				t.Fatal(err)
			}
			if n := len(s.List()); (n == 1) != wantFile {
				t.Errorf("%d claims", n)
			}
			want := []string{"color.example.com/claim=uid-a-1", "color.example.com/claim=uid-a-2"}
			ref := s.allocate("a", "uid-a", "1", "2")
			if diff := cmp.Diff(want, names(s.mustPrepare(ref))); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			if _, prepares := s.count(); (prepares == 0) != wantFile {
				t.Errorf("%d calls of Prepare", prepares)
			}
			wantRuntimeDevices(t, dir, want...)
			s.mustUnprepare(ref)
			wantRuntimeDevices(t, dir)
		})
	}
}

// Whenever the process is killed, the next one reads a whole file or none, and is not locked out.
func TestDriverIsKilledAtAnyTime(t *testing.T) {
	dir := t.TempDir()
	want := []string{"color.example.com/claim=uid-a-1", "color.example.com/claim=uid-a-2"}
	found := 0
	for range 20 {
		child, out := startChild(t, dir, "")
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(2 * time.Millisecond))
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out)
		_ = child.Wait()
		s := newStore(t, dir, "1", "2")
		if err := s.Load(); err != nil {
			t.Fatal(err)
		}
		if len(s.List()) > 0 {
			found++
			wantRuntimeDevices(t, dir, want...)
		} else {
			wantRuntimeDevices(t, dir)
		}
		if s.logged("Cannot") > 0 {
			t.Fatalf("log: %q", s.log)
		}
		ref := s.allocate("a", "uid-a", "1", "2")
		if diff := cmp.Diff(want, names(s.mustPrepare(ref))); diff != "" {
			t.Fatalf("answer (-want +got):\n%s", diff)
		}
		s.mustUnprepare(ref)
	}
	t.Logf("the claim was prepared %d times", found)
}
