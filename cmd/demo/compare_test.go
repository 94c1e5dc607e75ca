package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sound is what a consumer is given when all is well: 40 lines in 4 queues, many
// of them equal, as lines are.
func sound() (queues map[int32][]delivery, lines [][]byte) {
	queues = map[int32][]delivery{0: nil, 1: nil, 2: nil, 3: nil}
	for i := range 40 {
		line := fmt.Appendf(nil, "line %d\n", i%7)
		q := int32(i % 4)
		queues[q] = append(queues[q], delivery{offset: int64(len(queues[q])), line: i, body: bytes.Clone(line)})
		lines = append(lines, line)
	}
	return queues, lines
}

func TestCompareCatches(t *testing.T) {
	for name, c := range map[string]struct {
		seed func(q map[int32][]delivery)
		want comparison
	}{
		"all well":          {func(map[int32][]delivery) {}, comparison{consumed: 40}},
		"listened in parts": {func(q map[int32][]delivery) { q[1][2], q[1][5] = q[1][5], q[1][2] }, comparison{consumed: 40}}, // by offset it is in order
		"lost":              {func(q map[int32][]delivery) { q[1] = slices.Delete(q[1], 3, 4) }, comparison{consumed: 39, lost: 1}},
		"last lost":         {func(q map[int32][]delivery) { q[3] = q[3][:9] }, comparison{consumed: 39, lost: 1}},
		"a queue lost":      {func(q map[int32][]delivery) { q[2] = nil }, comparison{consumed: 30, lost: 10}},
		"given twice":       {func(q map[int32][]delivery) { q[0] = append(q[0], q[0][4]) }, comparison{consumed: 41, duplicated: 1}},
		"stored twice": {func(q map[int32][]delivery) {
			d := q[0][4]
			d.offset = 10
			q[0] = append(q[0], d)
		}, comparison{consumed: 41, duplicated: 1}},
		"reordered": {func(q map[int32][]delivery) { q[0][4].offset, q[0][5].offset = 5, 4 }, comparison{consumed: 40, disordered: 1}},
		"other queue": {func(q map[int32][]delivery) {
			d := q[0][9]
			d.offset = 10
			q[0], q[1] = q[0][:9], append(q[1], d)
		}, comparison{consumed: 40, disordered: 1}},
		"a byte changed":  {func(q map[int32][]delivery) { q[2][2].body[0] ^= 1 }, comparison{consumed: 40, damaged: 1, lost: 1}},
		"a byte missing":  {func(q map[int32][]delivery) { q[2][2].body = q[2][2].body[1:] }, comparison{consumed: 40, damaged: 1, lost: 1}},
		"another's":       {func(q map[int32][]delivery) { q[2][2].line = -1 }, comparison{consumed: 40, damaged: 1, lost: 1}},
		"beyond the end":  {func(q map[int32][]delivery) { q[2][2].line = 40 }, comparison{consumed: 40, damaged: 1, lost: 1}},
		"nothing came":    {func(q map[int32][]delivery) { q[0], q[1], q[2], q[3] = nil, nil, nil, nil }, comparison{lost: 40}},
		"lost and double": {func(q map[int32][]delivery) { q[3][4].line, q[3][4].body = 3, []byte("line 3\n") }, comparison{consumed: 40, lost: 1, duplicated: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			queues, lines := sound()
			c.seed(queues)
			got := compare(queues, lines)
			if got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			_, ok := verdict(&production{sent: 40, acked: 40}, got, true)
			if well := c.want == (comparison{consumed: 40}); ok != well {
				t.Errorf("the verdict is %v", ok)
			}
		})
	}
}

func TestVerdict(t *testing.T) {
	all := &production{sent: 40, acked: 40}
	for _, c := range []struct {
		s         *production
		f         comparison
		identical bool
		want      string
	}{
		{all, comparison{}, true, "OK"},
		{all, comparison{}, false, "replicas are not identical"},
		{all, comparison{lost: 3}, true, "3 lines lost"},
		{all, comparison{duplicated: 1, disordered: 2}, true, "1 lines duplicated, 2 lines out of order"},
		{all, comparison{damaged: 1}, true, "1 lines damaged"},
		{&production{sent: 40, acked: 39}, comparison{}, true, "1 lines not acknowledged"},
	} {
		text, ok := verdict(c.s, c.f, c.identical)
		if !strings.Contains(text, c.want) || ok != (c.want == "OK") {
			t.Errorf("%+v: %q, %v; want %q", c, text, ok, c.want)
		}
	}
}

// The replicas are identical if raftmq verify says so, and only then.
func TestVerifyDecides(t *testing.T) {
	for code, want := range map[int]bool{0: true, 1: false, 2: false} {
		binary := filepath.Join(t.TempDir(), "raftmq")
		script := fmt.Sprintf("#!/bin/sh\n[ \"$*\" = 'verify --dir a --dir b' ] || exit 9\nexit %d\n", code)
		if err := os.WriteFile(binary, []byte(script), 0o750); err != nil {
			t.Fatal(err)
		}
		c := &cluster{Nodes: []node{{DataDir: "a"}, {DataDir: "b"}}}
		if got, err := c.verify(options{binary: binary}); err != nil || got != want {
			t.Errorf("exit code %d: identical %v, %v", code, got, err)
		}
	}
	if _, err := (&cluster{}).verify(options{binary: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("no binary, and no error")
	}
}

// The lines together are the input, with whatever ends them.
func TestInputLines(t *testing.T) {
	for text, want := range map[string]int{"a\nb\n": 2, "a\n\n\nb": 4, "\xff\x00\r\n": 1, "x": 1} {
		file := filepath.Join(t.TempDir(), "input")
		if err := os.WriteFile(file, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		in, err := openInput(options{input: file})
		if err != nil || len(in.lines) != want || string(bytes.Join(in.lines, nil)) != text {
			t.Errorf("%q: %q, %v", text, in.lines, err)
		}
		if in, err = openInput(options{input: file, lines: 1}); err != nil || len(in.lines) != 1 || !strings.HasPrefix(text, string(in.lines[0])) {
			t.Errorf("%q, one line: %q, %v", text, in.lines, err)
		}
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{empty, filepath.Join(t.TempDir(), "none")} {
		if _, err := openInput(options{input: file}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
