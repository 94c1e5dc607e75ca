package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binary is the raftmq that these tests run: real processes, killed for real.
var binary string

func TestMain(m *testing.M) {
	code, err := 1, enterWorld()
	if err == nil {
		code, err = runTests(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "raftmq-cmd-test-")
	if err != nil {
		return 1, err
	}
	defer func() {
		common.stop()
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	binary = filepath.Join(dir, "raftmq")
	args := []string{"build", "-o", binary}
	if raceEnabled && long() { // several times slower
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		return 1, fmt.Errorf("go build: %w\n%s", err, out)
	}
	common.dir = filepath.Join(dir, "common")
	// Most tests wait for other processes most of the time.
	flag.Parse()
	if p := flag.Lookup("test.parallel"); p.Value.String() == p.DefValue {
		if err := p.Value.Set(strconv.Itoa(3 * runtime.GOMAXPROCS(0))); err != nil {
			return 1, err
		}
	}
	return m.Run(), nil
}

// commandTimeout bounds a command that has to end by itself.
const commandTimeout = 60 * time.Second

// result is what came of a command.
type result struct {
	out, err string
	code     int
}

// raftmq runs a command to its end.
func raftmq(t testing.TB, args ...string) result {
	t.Helper()
	return raftmqIn(t, nil, nil, args...)
}

// raftmqIn runs it with additional environment variables and a standard input.
func raftmqIn(t testing.TB, env []string, in io.Reader, args ...string) result {
	t.Helper()
	cmd, out, errs := command(env, in, args...)
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() }) // it is gone already, or goes now
	defer stop()
	waitErr := cmd.Wait()
	if ctx.Err() != nil {
		t.Fatalf("raftmq %s has not ended in %v\n%s%s", strings.Join(args, " "), commandTimeout, out, errs)
	}
	var exit *exec.ExitError
	if waitErr != nil && !errors.As(waitErr, &exit) {
		t.Fatal(waitErr)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

func command(env []string, in io.Reader, args ...string) (cmd *exec.Cmd, out, errs *bytes.Buffer) {
	cmd = exec.Command(binary, args...)
	cmd.Env = append(cleanEnv(), env...)
	out, errs = new(bytes.Buffer), new(bytes.Buffer)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd, out, errs
}

// cleanEnv is the environment without what configures raftmq.
func cleanEnv() (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "RAFTMQ_") && !strings.HasPrefix(kv, "NAMESRV_ADDR=") {
			env = append(env, kv)
		}
	}
	return env
}

// want checks a command's exit code and that its output has texts in it.
func (r result) want(t testing.TB, code int, texts ...string) result {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\n%.2000s%s", r.code, code, r.out, r.err)
	}
	for _, text := range texts {
		if !strings.Contains(r.out+r.err, text) {
			t.Errorf("%q is not in\n%.2000s%s", text, r.out, r.err)
		}
	}
	return r
}

// eventually waits for a condition that nothing tells of.
func eventually(t testing.TB, what string, ok func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in a minute: %s: %v", what, err)
		}
	}
}
