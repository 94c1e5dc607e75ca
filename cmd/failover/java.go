package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// javaSource is where the program is that uses the official client.
const javaSource = "testdata/interop/java"

// startJava has senders of the official Java client send until stop.
func startJava(ctx context.Context, c *cluster, o options) (*load, error) {
	dir := filepath.Join(o.dir, "java")
	if err := os.CopyFS(dir, os.DirFS(javaSource)); err != nil {
		return nil, fmt.Errorf("%w: run it in the repository's root", err)
	}
	build := exec.CommandContext(ctx, "mvn", "-q", "-B", "-Drocketmq.version="+o.java, "package", "dependency:copy-dependencies", "-DoutputDirectory=lib")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", build, err, out)
	}
	logs := filepath.Join(dir, "logs")
	cmd := exec.CommandContext(ctx, "java", "-Drocketmq.client.logRoot="+logs, "-Drocketmq.log.root.dir="+logs, "-Djava.io.tmpdir="+dir, "-Duser.home="+dir,
		"-cp", filepath.Join(dir, "target", "*")+":"+filepath.Join(dir, "lib", "*"), "interop.Load",
		c.names, c.topic, strconv.Itoa(o.senders), strconv.Itoa(o.size))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	l := newLoad()
	var reading sync.WaitGroup
	var bad error
	reading.Go(func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() && bad == nil {
			bad = l.read(lines.Text())
		}
		bad = errors.Join(bad, lines.Err())
		io.Copy(io.Discard, out) // so that it can end
	})
	l.end = func() error {
		err := in.Close() // which tells it to end
		reading.Wait()
		return errors.Join(err, bad, cmd.Wait())
	}
	return l, nil
}

// read takes in a line of the program: "A micros sender seq micros sender seq ...",
// acknowledgements with their times since 1970, "F sender seq", a send that has
// failed, of which that client does not know whether it is stored, and "U sender
// seq", one that ended with another status than SEND_OK.
func (l *load) read(line string) error {
	kind, rest, _ := strings.Cut(line, " ")
	var numbers []int64
	for _, f := range strings.Fields(rest) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return fmt.Errorf("the Java program says %q", line)
		}
		numbers = append(numbers, n)
	}
	switch {
	case kind == "A" && len(numbers)%3 == 0:
		for i := 0; i < len(numbers); i += 3 {
			l.acked(int(numbers[i+1]), int(numbers[i+2]), time.UnixMicro(numbers[i]))
		}
	case kind == "F" && len(numbers) == 2:
		l.not(failed, int(numbers[0]), int(numbers[1]))
	case kind == "U" && len(numbers) == 2:
		l.not(unknown, int(numbers[0]), int(numbers[1]))
	default:
		return fmt.Errorf("the Java program says %q", line)
	}
	return nil
}
