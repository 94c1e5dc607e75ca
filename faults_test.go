package raftmq_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rooms are the words by which DESIGN.md tells where a test is.
var rooms = map[string]string{
	"process": "cmd/raftmq", "group": "broker/raftgroup", "broker": "broker", "verify": "broker/verify", "sql92": "broker/sql92",
	"storage": "storage", "raftlog": "storage/raftlog", "disk": "storage/disk",
}

// faultRows are the rows of the fault matrix.
const faultRows = 47

// The table of faults in DESIGN.md has every row, and each test that it names is
// there.
func TestEachFaultHasATest(t *testing.T) {
	b, err := os.ReadFile("DESIGN.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(b), "\n| Row | Fault | Tests |\n|---|---|---|\n")
	if !ok {
		t.Fatal("DESIGN.md has no table of faults")
	}
	section, _, _ = strings.Cut(section, "\n\n")
	tests := map[string]map[string]bool{}
	for room, dir := range rooms {
		tests[room] = testsIn(t, dir)
	}
	seen := map[int]bool{}
	for _, line := range strings.Split(section, "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != 3 {
			t.Errorf("not three cells: %s", line)
			continue
		}
		row := strings.TrimSpace(cells[0])
		if row != "" {
			n, err := strconv.Atoi(row)
			if err != nil || n < 1 || n > faultRows || seen[n] {
				t.Errorf("row %q is none, or there twice", row)
			}
			seen[n] = true
		}
		if err := covered(cells[2], tests); err != nil {
			t.Errorf("row %s (%s): %v", row, strings.TrimSpace(cells[1]), err)
		}
	}
	for n := 1; n <= faultRows; n++ {
		if !seen[n] {
			t.Errorf("row %d is missing", n)
		}
	}
}

var (
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	roomText = regexp.MustCompile("^ *(\\w+) ((?:`\\w+`(?:, )?)+) *$")
)

// testsIn are the tests of a package.
func testsIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", dir, len(files), err)
	}
	found := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testFunc.FindAllSubmatch(b, -1) {
			found[string(m[1])] = true
		}
	}
	return found
}

// covered says what is wrong with a list like: group `TestA`, `TestB`; broker `TestC`.
func covered(list string, tests map[string]map[string]bool) error {
	for _, part := range strings.Split(list, ";") {
		m := roomText.FindStringSubmatch(part)
		if m == nil || tests[m[1]] == nil {
			return fmt.Errorf("%q is not a room and its tests", part)
		}
		for _, name := range strings.Split(m[2], ", ") {
			if name = strings.Trim(name, "`"); !tests[m[1]][name] {
				return fmt.Errorf("%s has no %s", m[1], name)
			}
		}
	}
	return nil
}

// What the table's test is for.
func TestFaultsWithoutATestAreFound(t *testing.T) {
	tests := map[string]map[string]bool{"group": {"TestA": true, "TestB": true}, "broker": {"TestC": true}}
	for list, ok := range map[string]bool{
		" group `TestA`, `TestB`; broker `TestC` ": true,
		" group `TestA` ":                          true,
		"":                                         false,
		" ":                                        false,
		" group ":                                  false,
		" `TestA` ":                                false,
		" group `TestC` ":                          false,
		" group `TestA`; client `TestC`":           false,
		" group TestA ":                            false,
	} {
		if err := covered(list, tests); (err == nil) != ok {
			t.Errorf("%q: %v", list, err)
		}
	}
}

// The tests that have to find a mutant exist.
func TestMutantsHaveTests(t *testing.T) {
	b, err := os.ReadFile("cmd/mutants/suites.go")
	if err != nil {
		t.Fatal(err)
	}
	suites := regexp.MustCompile(`\{"([^"]+)", "(Test[^"]+)"\}`).FindAllSubmatch(b, -1)
	if len(suites) < 10 {
		t.Fatalf("%d suites", len(suites))
	}
	for _, m := range suites {
		found := testsIn(t, string(m[1]))
		for _, name := range strings.Split(string(m[2]), "|") {
			if !found[name] {
				t.Errorf("%s has no %s", m[1], name)
			}
		}
	}
	if !slices.ContainsFunc(suites, func(m [][]byte) bool { return string(m[2]) == "TestSim" }) {
		t.Error("mutants are not simulated")
	}
}
