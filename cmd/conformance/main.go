// Command conformance runs the tests that are named after the statements of
// RocketMQ's semantics (TestSEND01..., TestTX07And08...) and prints what became
// of each statement. It exits with 1 if one failed or has no test.
//
//	go run ./cmd/conformance [-run AREA] [package ...]
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"
)

func main() {
	only := flag.String("run", "", "only statements of this area, like SEND")
	flag.Parse()
	packages := flag.Args()
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	failed, err := run(*only, packages, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}

// run tests the packages and writes the table. It says whether a statement does
// not hold.
func run(only string, packages []string, out io.Writer) (bool, error) {
	areas := areaNames()
	if only != "" {
		if !slices.Contains(areas, only) {
			return false, fmt.Errorf("no area %q: there are %s", only, strings.Join(areas, ", "))
		}
		areas = []string{only}
	}
	args := append([]string{"test", "-json", "-count=1", "-run", "^Test(" + strings.Join(areas, "|") + ")[0-9]|^Test[A-Z]+[0-9][0-9].*And(" + strings.Join(areas, "|") + ")[0-9]"}, packages...)
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	rep, err := read(stdout)
	if e := cmd.Wait(); err == nil && e != nil && len(rep.failed) == 0 {
		err = fmt.Errorf("go test: %w, and no test failed", e)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return false, err
	}
	for _, name := range rep.failed {
		fmt.Fprintf(out, "--- %s\n%s\n", name, strings.Join(rep.output[name], ""))
	}
	failed := table(out, areas, rep)
	return failed || err != nil || len(rep.failed) > 0, nil
}

// event is a line of go test -json.
type event struct {
	Action, Package, Test, Output string
}

// report is what became of the tests.
type report struct {
	passed, failed, skipped []string
	output                  map[string][]string // by test
}

func read(r io.Reader) (report, error) {
	rep := report{output: map[string][]string{}}
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil {
				rep.add(e)
			}
		}
		if errors.Is(err, io.EOF) {
			return rep, nil
		}
		if err != nil {
			return rep, err
		}
	}
}

func (rep *report) add(e event) {
	name := e.Test
	if name == "" {
		if e.Action == "fail" && !slices.ContainsFunc(rep.failed, func(n string) bool { return n != "" }) {
			rep.failed = append(rep.failed, e.Package) // it does not build, or died
			rep.output[e.Package] = append(rep.output[e.Package], rep.output[""]...)
		}
		if e.Action == "output" || e.Action == "build-output" {
			rep.output[""] = append(rep.output[""], e.Output)
		}
		return
	}
	top, _, sub := strings.Cut(name, "/")
	switch e.Action {
	case "output":
		rep.output[top] = append(rep.output[top], e.Output)
	case "pass", "fail", "skip":
		if !sub {
			list := map[string]*[]string{"pass": &rep.passed, "fail": &rep.failed, "skip": &rep.skipped}[e.Action]
			*list = append(*list, name)
		}
	}
}

// table writes a line for each statement and says whether one does not hold.
func table(out io.Writer, areas []string, rep report) (bad bool) {
	result := map[string]string{}
	tests := map[string][]string{}
	note := func(names []string, verdict string) {
		for _, name := range names {
			ids, title := statements(name)
			for _, id := range ids {
				if result[id] != "fail" && result[id] != "skipped" {
					result[id] = verdict
				}
				tests[id] = append(tests[id], title)
			}
		}
	}
	note(rep.passed, "pass")
	note(rep.skipped, "skipped")
	note(rep.failed, "fail")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tRESULT\tSHOWN BY, OR WHY NOT")
	counts := map[string]int{}
	for _, area := range areas {
		for n := 1; n <= count(area); n++ {
			id := fmt.Sprintf("%s-%02d", area, n)
			verdict, what := result[id], strings.Join(tests[id], "; ")
			if verdict == "" {
				if reason, ok := notApplicable(id); ok {
					verdict, what = "n/a", reason
				} else {
					verdict, what = "fail", "there is no test of it"
				}
			}
			counts[verdict]++
			bad = bad || verdict == "fail" || verdict == "skipped"
			fmt.Fprintf(w, "%s\t%s\t%s\n", id, verdict, what)
		}
	}
	w.Flush()
	fmt.Fprintf(out, "\n%d pass, %d fail, %d skipped, %d not applicable\n", counts["pass"], counts["fail"], counts["skipped"], counts["n/a"])
	return bad
}
