// Command mutants shows that the tests notice when a safeguard is missing. It
// builds them with the tag mutant, runs them as they are, which has to pass, and
// then with one safeguard of storage/mutant after another taken away, which each
// time has to fail. It prints what found each one, and exits with 1 if one was not
// found.
//
//	go run ./cmd/mutants [-run NAME] [-seeds N]
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/raftmq/raftmq/storage/mutant"
)

func main() {
	only := flag.String("run", "", "only this mutant")
	seeds := flag.Int("seeds", 60, "how many seeds the simulation has to find one")
	flag.Parse()
	if *only != "" && !slices.ContainsFunc(mutant.All, func(m mutant.Mutant) bool { return m.Name == *only }) {
		fmt.Fprintf(os.Stderr, "mutants: there is no mutant %q\n", *only)
		os.Exit(2)
	}
	ok, err := run(*only, *seeds, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// run says whether the tests pass as they are, and every mutant was found.
func run(only string, seeds int, out io.Writer) (ok bool, err error) {
	if err := isFree(); err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	r := &runner{dir: dir, seeds: seeds}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WITHOUT\tSIMULATION\tTESTS BY NAME")
	ok = true
	for _, m := range append([]mutant.Mutant{{}}, mutant.All...) {
		if only != "" && m.Name != "" && m.Name != only {
			continue
		}
		cases := suites[m.Name]
		if m.Name == "" {
			for name, c := range suites {
				if only == "" || only == name {
					cases = append(cases, c...)
				}
			}
			m.Name = "nothing"
		} else if len(cases) == 0 {
			return false, fmt.Errorf("no test is named that has to find %s", m.Name)
		}
		sim, named, err := r.try(m.Name, cases)
		if err != nil {
			return false, err
		}
		fmt.Fprintf(os.Stderr, "without %s: simulation %v, tests %v\n", m.Name, sim, named)
		found := sim.failed || len(named.names) > 0
		fmt.Fprintf(w, "%s\t%v\t%v\n", m.Name, sim, named)
		if found == (m.Name == "nothing") {
			ok = false
		}
	}
	w.Flush()
	if !ok {
		fmt.Fprintln(out, "\nA test fails with all safeguards in place, or a mutant was not found.")
	}
	return ok, nil
}

// isFree looks whether what is built to be used has nothing of the package.
func isFree() error {
	const room = "github.com/raftmq/raftmq/storage/mutant."
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "raftmq")
	if err := command("build", "-o", bin, "./cmd/raftmq").Run(); err != nil {
		return fmt.Errorf("building raftmq: %w", err)
	}
	symbols, err := exec.Command("go", "tool", "nm", bin).Output()
	if err != nil {
		return fmt.Errorf("go tool nm: %w", err)
	}
	if bytes.Contains(symbols, []byte(room)) {
		return fmt.Errorf("%s* is in raftmq built without the tag: safeguards cost something", room)
	}
	return nil
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	return cmd
}

// runner runs tests that were built with the tag.
type runner struct {
	dir   string
	seeds int
	bins  map[string]string // by package
}

// binary builds a package's tests, once.
func (r *runner) binary(pkg string) (string, error) {
	if bin, ok := r.bins[pkg]; ok {
		return bin, nil
	}
	bin := filepath.Join(r.dir, strings.ReplaceAll(pkg, "/", "_")+".test")
	if err := command("test", "-c", "-tags", "mutant", "-o", bin, "./"+pkg).Run(); err != nil {
		return "", fmt.Errorf("building the tests of %s: %w", pkg, err)
	}
	if r.bins == nil {
		r.bins = map[string]string{}
	}
	r.bins[pkg] = bin
	return bin, nil
}

// result is what became of one run of tests.
type result struct {
	failed bool
	names  []string // of the tests that failed
	took   time.Duration
	sim    string // what the simulation says of itself
}

func (r result) String() string {
	what := strings.Join(r.names, ", ")
	switch {
	case r.sim != "":
		what = r.sim
	case what == "":
		what = "all pass"
	}
	return fmt.Sprintf("%s (%.1f s)", what, r.took.Seconds())
}

// try runs the simulation and the named tests without one safeguard.
func (r *runner) try(name string, cases []suite) (sim, named result, err error) {
	if sim, err = r.test(name, simulation, "RAFTMQ_SEED=1", fmt.Sprint("RAFTMQ_RUNS=", r.seeds)); err != nil {
		return sim, named, err
	}
	if sim.sim == "" {
		sim.sim = fmt.Sprintf("nothing in %d seeds", r.seeds)
	}
	for _, pkg := range packages(cases) {
		var tests []string
		for _, c := range cases {
			if c.pkg == pkg && !slices.Contains(tests, c.run) {
				tests = append(tests, c.run)
			}
		}
		res, err := r.test(name, suite{pkg, strings.Join(tests, "|")})
		if err != nil {
			return sim, named, err
		}
		named.failed = named.failed || res.failed
		named.names = append(named.names, res.names...)
		named.took += res.took
	}
	return sim, named, nil
}

// patience is how long the tests of one package may take. A safeguard that is
// missing can also show by tests that never end.
const patience = 3 * time.Minute

var (
	failedTest  = regexp.MustCompile(`(?m)^--- FAIL: (\S+)`)
	runningTest = regexp.MustCompile(`(?m)^\t(Test\w+) \(`)
	violation   = regexp.MustCompile(`(?m)^ +\w+_test\.go:\d+: (.*)$`)
)

func (r *runner) test(name string, s suite, env ...string) (res result, err error) {
	bin, err := r.binary(s.pkg)
	if err != nil {
		return res, err
	}
	limit := patience
	if s == simulation {
		limit += time.Duration(r.seeds) * 10 * time.Second
	}
	cmd := exec.Command(bin, "-test.run", "^("+s.run+")$", "-test.timeout", limit.String(), "-test.failfast="+fmt.Sprint(s == simulation))
	cmd.Dir = s.pkg
	cmd.Env = append(os.Environ(), append([]string{"RAFTMQ_LONG=", "RAFTMQ_SEED=", "RAFTMQ_FAULTS="}, env...)...)
	if name != "nothing" {
		cmd.Env = append(cmd.Env, "RAFTMQ_MUTANT="+name)
	}
	begin := time.Now()
	output, err := cmd.CombinedOutput()
	res.took = time.Since(begin)
	if err == nil {
		if bytes.Contains(output, []byte("no tests to run")) {
			return res, fmt.Errorf("%s has no test %s", s.pkg, s.run)
		}
		return res, nil
	}
	if _, ok := err.(*exec.ExitError); !ok {
		return res, err
	}
	res.failed = true
	for _, m := range append(failedTest.FindAllSubmatch(output, -1), runningTest.FindAllSubmatch(output, -1)...) {
		if n := string(m[1]); !slices.Contains(res.names, n) {
			res.names = append(res.names, n)
		}
	}
	if s == simulation {
		res.sim = "fails"
		for _, m := range violation.FindAllSubmatch(output, -1) {
			if line := string(m[1]); !strings.Contains(line, "RAFTMQ_SEED") && !strings.Contains(line, "faults from") {
				res.sim = "fails: " + line[:min(len(line), 70)]
				break
			}
		}
		if bytes.Contains(output, []byte("panic: test timed out")) {
			res.sim = "fails: a seed does not end"
		}
	}
	if len(res.names) == 0 {
		res.names = []string{s.pkg + " (died)"}
	}
	if name == "nothing" {
		os.Stderr.Write(output)
	}
	return res, nil
}
