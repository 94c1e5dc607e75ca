package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/build"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// input is a text and its lines. A line includes its end, so that the lines
// together are the text.
type input struct {
	name  string
	text  []byte
	lines [][]byte
}

func openInput(o options) (*input, error) {
	in := &input{name: o.input}
	var err error
	if o.input != "" {
		in.text, err = os.ReadFile(o.input)
	} else {
		err = in.standardLibrary(o.lines)
	}
	if err != nil {
		return nil, err
	}
	for rest := in.text; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n') + 1
		if n == 0 {
			n = len(rest)
		}
		if o.lines > 0 && len(in.lines) == o.lines {
			in.text = in.text[:len(in.text)-len(rest)]
			in.name += fmt.Sprintf(" (the first %d lines; LINES=0 sends all)", o.lines)
			break
		}
		in.lines = append(in.lines, rest[:n:n])
		rest = rest[n:]
	}
	if len(in.lines) == 0 {
		return nil, fmt.Errorf("%s has no lines", in.name)
	}
	return in, nil
}

// standardLibrary reads the Go files of the toolchain's standard library.
func (in *input) standardLibrary(limit int) error {
	root := build.Default.GOROOT
	if out, err := exec.Command("go", "env", "GOROOT").Output(); err == nil {
		root = strings.TrimSpace(string(out))
	}
	src := filepath.Join(root, "src")
	in.name = "Go's standard library"
	lines := 0
	err := filepath.WalkDir(src, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == filepath.Join(src, "cmd") || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		case limit > 0 && lines > limit:
			return fs.SkipAll
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		lines += bytes.Count(text, []byte("\n"))
		in.text = append(in.text, text...)
		return nil
	})
	if err == nil && len(in.text) == 0 {
		err = errors.New("no Go source in " + src + ": give a file with INPUT=path")
	}
	return err
}
