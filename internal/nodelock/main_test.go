// SPDX-License-Identifier: Apache-2.0

package nodelock

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// asProcess makes the test binary take the lock and wait for the end of its standard input.
const asProcess = "NODELOCK_TEST_PROCESS"

func TestMain(m *testing.M) {
	if os.Getenv(asProcess) != "" {
		front, _ := strconv.Atoi(os.Args[2])
		_, err := acquire(os.Args[1], Front(front))
		fmt.Println(err)
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// A process is another process that has tried to take the lock.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	err   string // of acquire, or "<nil>"
}

func startProcess(t *testing.T, path string, front Front) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0], path, strconv.Itoa(int(front)))
	cmd.Env = append(os.Environ(), asProcess+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: cmd, stdin: stdin}
	t.Cleanup(p.kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal("the process printed no line:", err)
	}
	p.err = strings.TrimSuffix(line, "\n")
	return p
}

// end lets the process exit by itself.
func (p *process) end() {
	p.t.Helper()
	p.stdin.Close()
	if err := p.cmd.Wait(); err != nil {
		p.t.Error(err)
	}
}

// kill kills the process, if it still runs.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill() // SIGKILL
		_ = p.cmd.Wait()
	}
}
