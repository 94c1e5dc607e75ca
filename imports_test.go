// Package raftmq_test keeps the direction of the imports between the rooms of
// this repository.
package raftmq_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/raftmq/raftmq/"

// allowed says which packages of this module a room may import, besides those
// within it. Its longest matching prefix is a package's rule.
var allowed = map[string][]string{
	"cmd":             {"broker", "client"},
	"cmd/mutants":     {"storage/mutant"},
	"broker":          {"fsm", "storage", "remoting"},
	"fsm":             {"storage", "remoting"},
	"client":          {"remoting"},
	"storage":         {"storage/disk", "storage/mutant"},
	"storage/raftlog": {"storage/disk", "storage/mutant"},
	"storage/disk":    {},
	"storage/mutant":  {},
	"remoting":        {},
}

// raftRooms are where hashicorp/raft may be seen.
var raftRooms = []string{"broker/raftgroup", "broker/verify", "storage/raftlog"}

func TestImportDirection(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			// Other modules keep their own rules.
			if _, err := os.Stat(filepath.Join(name, "go.mod")); err == nil && name != "." || strings.HasPrefix(d.Name(), ".") && name != "." {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || !strings.Contains(name, "/") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(name))
		for _, spec := range f.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			seen++
			check(t, name, dir, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 100 {
		t.Errorf("only %d imports were looked at", seen)
	}
}

func check(t *testing.T, file, dir, path string) {
	test := strings.HasSuffix(file, "_test.go")
	if strings.HasPrefix(path, "github.com/hashicorp/raft") && !slices.Contains(raftRooms, dir) {
		t.Errorf("%s imports %s, which belongs to %v", file, path, raftRooms)
	}
	in, ok := strings.CutPrefix(path, module)
	if !ok {
		if strings.HasPrefix(dir, "remoting") && strings.Contains(strings.Split(path, "/")[0], ".") && !test {
			t.Errorf("%s imports %s: remoting is made of the standard library alone", file, path)
		}
		return
	}
	room := ruleOf(dir)
	if in == dir || strings.HasPrefix(in, room+"/") && room == topRoom(room) {
		return // within the room
	}
	for _, ok := range allowed[room] {
		if in == ok || strings.HasPrefix(in, ok+"/") && topRoom(in) != topRoom(room) {
			return
		}
	}
	if test && (dir == "broker" || strings.HasPrefix(dir, "cmd")) {
		return // end to end tests drive all of it
	}
	t.Errorf("%s imports %s: %s may import %v", file, in, room, allowed[room])
}

// ruleOf is the longest prefix of a package that has a rule.
func ruleOf(dir string) string {
	for d := dir; ; d = filepath.ToSlash(filepath.Dir(d)) {
		if _, ok := allowed[d]; ok || d == "." {
			return d
		}
	}
}

func topRoom(dir string) string {
	top, _, _ := strings.Cut(dir, "/")
	return top
}
