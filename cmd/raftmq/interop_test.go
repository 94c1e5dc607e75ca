package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
)

// interopScenarios are what the programs under testdata/interop do, each with a
// topic of its own.
var interopScenarios = []string{"broadcast", "delay", "ordered", "pull", "query", "reset", "retry", "send", "sql", "tag", "timer", "transaction"}

// TestInterop runs programs that use nothing but an official client, each in
// quiet and while leaders are killed. It needs the programs' own tools, and the
// registries they fetch their clients from. RAFTMQ_INTEROP is 1 or the names of
// scenarios.
func TestInterop(t *testing.T) {
	if os.Getenv("RAFTMQ_INTEROP") == "" {
		t.Skip("make interop runs it")
	}
	source, err := filepath.Abs("../../testdata/interop")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []struct {
		name string
		make func(t *testing.T, dir string) (command []string, env string)
	}{
		{"Java4.9.8", func(t *testing.T, dir string) ([]string, string) { return javaProgram(t, source, dir, "4.9.8") }},
		{"Java5.3.3", func(t *testing.T, dir string) ([]string, string) { return javaProgram(t, source, dir, "5.3.3") }},
		{"Node", func(t *testing.T, dir string) ([]string, string) { return nodeProgram(t, source, dir) }},
	} {
		t.Run(p.name, func(t *testing.T) {
			command, faults := p.make(t, t.TempDir())
			t.Run("quiet", func(t *testing.T) { interop(t, 3, command, "", false) })
			t.Run("leaders killed", func(t *testing.T) { interop(t, 3, command, faults, true) })
			// Groups share no window of sends: only with one is a repeat never stored.
			t.Run("one group, leader killed", func(t *testing.T) {
				t.Setenv("RAFTMQ_INTEROP", "send")
				if doubled := interop(t, 1, command, faults, true); doubled != 0 {
					t.Errorf("%d messages are stored twice", doubled)
				}
			})
		})
	}
}

// need skips the test if a tool is not installed.
func need(t *testing.T, tools ...string) {
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: this client is not shown to work", tool)
		}
	}
}

func build(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

func javaProgram(t *testing.T, source, dir, version string) (command []string, faults string) {
	need(t, "java", "mvn")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(source, "java"))); err != nil {
		t.Fatal(err)
	}
	build(t, dir, "mvn", "-q", "-B", "-Drocketmq.version="+version, "package", "dependency:copy-dependencies", "-DoutputDirectory=lib")
	logs := filepath.Join(dir, "logs")
	return []string{
		"java", "-Drocketmq.client.logRoot=" + logs, "-Drocketmq.log.root.dir=" + logs, "-Djava.io.tmpdir=" + dir, "-Duser.home=" + dir,
		"-Dfaults=${FAULTS}", "-cp", filepath.Join(dir, "target", "*") + ":" + filepath.Join(dir, "lib", "*"), "interop.Interop",
	}, "true"
}

func nodeProgram(t *testing.T, source, dir string) (command []string, faults string) {
	need(t, "node", "npm")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(source, "node"))); err != nil {
		t.Fatal(err)
	}
	build(t, dir, "npm", "install", "--silent", "--no-audit", "--no-fund")
	return []string{"env", "FAULTS=${FAULTS}", "HOME=" + dir, "TMPDIR=" + dir, "node", filepath.Join(dir, "interop.js")}, "true"
}

// interop runs a program against a cluster of some groups, whose leaders are
// killed meanwhile if asked to. It returns how many messages of the scenario
// "send" are stored twice.
func interop(t *testing.T, groups int, command []string, faults string, kill bool) (doubled int) {
	c := newCluster(t, t.TempDir(), 3, groups)
	c.set = []string{"enablePropertyFilter=true", "transactionTimeOut=3s", "transactionCheckInterval=1s"}
	t.Cleanup(func() {
		c.killAll()
		c.checkLogs()
	})
	c.start(c.ids...)
	c.ready()
	run := fmt.Sprintf("r%d", time.Now().UnixNano())
	interopTopics(t, c, run)

	args := append([]string{}, command...)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "${FAULTS}", faults)
	}
	args = append(args, c.namesrvs(), run)
	if only := os.Getenv("RAFTMQ_INTEROP"); only != "1" {
		args = append(args, strings.Fields(only)...)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	var stderr strings.Builder
	passed := 0
	started := make(chan string, 2*len(interopScenarios))
	reading.Go(func() {
		defer close(started)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			line := lines.Text()
			switch what, rest, _ := strings.Cut(line, " "); what {
			case "START":
				started <- rest
			case "PASS":
				passed++
				t.Log(line)
			case "FAIL":
				t.Error(line)
			default:
				fmt.Fprintln(&stderr, line)
			}
		}
		io.Copy(io.Discard, out)
	})
	var killing sync.WaitGroup
	if kill {
		killing.Go(func() { killLeaders(t, c, started) })
	}
	err := cmd.Wait()
	in.Close()
	reading.Wait()
	killing.Wait()
	if text := stderr.String(); err != nil || passed == 0 {
		t.Errorf("%d scenarios passed, the program ended with %v:\n%s", passed, err, text[max(0, len(text)-8000):])
	}
	c.healthy()
	if only := os.Getenv("RAFTMQ_INTEROP"); only == "1" || strings.Contains(only, "send") {
		doubled = storedTwice(t, c, "TOPIC-"+run+"-send")
		t.Logf("of the messages of \"send\" %d are stored twice", doubled)
	}
	c.stop()
	c.verify()
	return doubled
}

// storedTwice counts the messages of a topic that are there more than once.
func storedTwice(t *testing.T, c *cluster, topic string) (doubled int) {
	cl, err := client.New(client.Config{NameServers: c.namesrvs()})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close(context.Background())
	p, err := cl.NewPullConsumer(client.PullConfig{Group: "counts"})
	if err != nil {
		t.Fatal(err)
	}
	queues, err := p.FetchQueues(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for _, q := range queues {
		end, err := p.MaxOffset(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for at := int64(0); at < end; {
			r, err := p.Pull(t.Context(), client.PullRequest{Queue: q, Offset: at})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range r.Messages {
				times[string(m.Body)]++
			}
			at = r.NextOffset
		}
	}
	if len(times) == 0 {
		t.Error("no message is stored")
	}
	for _, n := range times {
		doubled += n - 1
	}
	return doubled
}

func interopTopics(t *testing.T, c *cluster, run string) {
	cl, err := client.New(client.Config{NameServers: c.namesrvs()})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close(context.Background())
	for _, scenario := range interopScenarios {
		cfg := client.NewTopicConfig("TOPIC-" + run + "-" + scenario)
		cfg.ReadQueueNums, cfg.WriteQueueNums = 4, 4
		eventually(t, "topic "+cfg.Name, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			route, err := createTopic(ctx, cl.Admin(), cfg, nil)
			if err == nil && len(route.Queues) != c.groups {
				err = fmt.Errorf("the name server knows %d groups", len(route.Queues))
			}
			return err
		})
	}
}

// killLeaders kills the leader of a group, of each in turn, in every scenario, and
// starts it again when another one leads.
func killLeaders(t *testing.T, c *cluster, started <-chan string) {
	group := 0
	for range started {
		<-time.After(500 * time.Millisecond) // the fault's moment: the scenario is at work
		leader, _ := c.leader(groupName(group))
		c.kill(leader)
		c.leader(groupName(group))
		c.start(leader)
		c.healthy()
		group = (group + 1) % c.groups
	}
}
