package raftmq_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/raftmq/raftmq/storage/mutant"
)

// Each safeguard that can be taken away is known, and can.
func TestMutantsAreWhereTheyAreSaidToBe(t *testing.T) {
	used := map[string]bool{}
	on := regexp.MustCompile(`mutant\.On\("([^"]*)"\)`)
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		b, err := os.ReadFile(name)
		for _, m := range on.FindAllSubmatch(b, -1) {
			used[string(m[1])] = true
			if !slices.ContainsFunc(mutant.All, func(known mutant.Mutant) bool { return known.Name == string(m[1]) }) {
				t.Errorf("%s asks for mutant %q, which mutant.All does not have", name, m[1])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutant.All {
		if !used[m.Name] {
			t.Errorf("no code asks for mutant %q", m.Name)
		}
	}
}
