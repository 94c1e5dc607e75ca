package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/broker"
	"github.com/raftmq/raftmq/client"
	"github.com/raftmq/raftmq/remoting"
)

// leaves are all commands that have no subcommands, with the words before them.
func leaves(words []string, commands []*cli.Command) (all [][]string) {
	for _, c := range commands {
		path := append(slices.Clone(words), c.Name)
		if len(c.Subcommands) == 0 {
			all = append(all, path)
		}
		all = append(all, leaves(path, c.Subcommands)...)
	}
	return all
}

func TestHelpOfEachCommand(t *testing.T) {
	all := leaves(nil, app().Commands)
	if len(all) < 15 {
		t.Fatalf("only %v", all)
	}
	for _, path := range append(all, nil, []string{"topic"}, []string{"raft"}, []string{"bench"}) {
		r := raftmq(t, append(path, "--help")...).want(t, 0, "NAME:", "USAGE:", strings.Join(append([]string{"raftmq"}, path...), " "), "--help, -h")
		if r.err != "" {
			t.Errorf("%v --help: %s", path, r.err)
		}
		// A command's own word for a value, not the library's.
		for line := range strings.SplitSeq(r.out, "\n") {
			if strings.Contains(line, " value") && strings.HasPrefix(strings.TrimSpace(line), "--") {
				t.Errorf("%v --help: %s", path, line)
			}
		}
	}
}

// Wrong arguments: exit code 2, one line that says what and what to do, nothing
// on standard output, and nothing was tried.
func TestWrongArguments(t *testing.T) {
	for line, want := range map[string][]string{
		"nonsense":                                        {`no command "nonsense"`, "server, namesrv, dev"},
		"topic nonsense":                                  {`raftmq topic has no command "nonsense"`, "create, list, describe, delete"},
		"--nonsense":                                      {"-nonsense", "see raftmq --help"},
		"topic list --nonsense":                           {"-nonsense", "see raftmq topic list --help"},
		"topic create":                                    {"one TOPIC", "see raftmq topic create --help"},
		"topic create A --queues 3":                       {"flags before it", "see raftmq topic create --help"},
		"topic create --queues 0 A":                       {"--queues 0", "1 to 4096"},
		"topic create --queues many A":                    {"many", "see raftmq topic create --help"},
		"topic create --perm 9 A":                         {"--perm 9", "2 (write), 4 (read) or 6 (both)"},
		"topic create --attribute x A":                    {"--attribute x", "NAME=VALUE or -NAME"},
		"topic list A":                                    {`takes no argument, but there is "A"`},
		"topic list -o xml":                               {"-o xml", "table or json"},
		"topic delete":                                    {"one TOPIC"},
		"topic list --namesrv garbage":                    {`"garbage" is not host:port`},
		"produce":                                         {"--topic is missing", "see raftmq produce --help"},
		"produce --topic A B":                             {`"B"`, "see raftmq produce --help"},
		"produce --topic A --file /nowhere/at/all":        {"/nowhere/at/all"},
		"produce --topic A --size 10":                     {"--size 10", "with --count"},
		"produce --topic A --size 99999999 --count 1":     {"--size 99999999", "0 to 4194304"},
		"produce --topic A --count -1":                    {"--count -1"},
		"produce --topic A --timeout 0s":                  {"--timeout 0s"},
		"produce --topic A --size 1 --count 1 -o text":    {"-o text", "table or json"},
		"produce --topic A --property x":                  {"--property x", "NAME=VALUE"},
		"produce --topic A --property x=":                 {"--property x=", "NAME=VALUE"},
		"produce --topic A --property UNIQ_KEY=x":         {"UNIQ_KEY", "the system's own", "--tag"},
		"produce --topic A --delay 0":                     {"--delay 0", "1 or more"},
		"produce --topic A --deliver-after -1s":           {"--deliver-after -1s"},
		"produce --topic A --delay 1 --deliver-after 1s":  {"--delay and --deliver-after"},
		"consume --topic A":                               {"--group is missing", "see raftmq consume --help"},
		"consume --group g":                               {"--topic is missing"},
		"consume --topic A --group g --from yesterday":    {"--from yesterday", "first, last, a time"},
		"consume --topic A --group g --count -1":          {"--count -1"},
		"consume --topic A --group g -o table":            {"-o table", "text or json"},
		"consume --topic A --group in/valid":              {"in/valid"},
		"group create":                                    {"one GROUP", "see raftmq group create --help"},
		"group create --retry-max -1 g":                   {"--retry-max -1", "0 to 1048576"},
		"group create --retry-queues 0 g":                 {"--retry-queues 0", "1 to 4096"},
		"group create --consume maybe g":                  {"--consume maybe", "on or off"},
		"group create CID_RMQ_SYS_X":                      {"CID_RMQ_SYS_X", "system"},
		"group describe":                                  {"one GROUP", "see raftmq group describe --help"},
		"group reset-offset g":                            {"--topic is missing"},
		"group reset-offset --topic A g":                  {"--to is missing", "see raftmq group reset-offset --help"},
		"group reset-offset --topic A --to soon g":        {"--to soon", "first, last, a time"},
		"group reset-offset --topic A --offset 3 g":       {"--broker, --queue and --offset"},
		"group clone-offset g":                            {"--from is missing"},
		"group clone-offset --from g g":                   {"--from g is the same group"},
		"message query A":                                 {"--key, --id or --from is missing"},
		"message query --key k --id i A":                  {"one of them"},
		"message query --key k --limit 0 A":               {"--limit 0", "1 to 10000"},
		"message query --from now A":                      {"--from now"},
		"message view garbage":                            {"garbage is no offset message id", "raftmq message query --id"},
		"raft transfer-leader":                            {"--group is missing", "see raftmq raft transfer-leader --help"},
		"raft add-peer --group g":                         {"--address is missing", "see raftmq raft add-peer --help"},
		"raft remove-peer --node n":                       {"--group is missing", "see raftmq raft remove-peer --help"},
		"raft add-peer --group g --address foo":           {"--address foo", "HOST:PORT of the node's peer port"},
		"raft add-peer --group g --address h:0":           {"--address h:0", "HOST:PORT of the node's peer port"},
		"raft scrub --rate -5":                            {"--rate -5", "see raftmq raft scrub --help"},
		"raft verify --rate 0":                            {"--rate 0", "see raftmq raft verify --help"},
		"raft promote --group g":                          {"--node is missing", "see raftmq raft promote --help"},
		"raft demote --group g --node n m":                {"raftmq raft demote takes no argument"},
		"raft health extra":                               {"raftmq raft health takes no argument"},
		"raft autopilot state":                            {"--group is missing", "see raftmq raft autopilot state --help"},
		"raft autopilot set-config -g g --stable -1s":     {"--stable -1s", "see raftmq raft autopilot set-config --help"},
		"raft autopilot set-config -g g --dead-after 1ms": {"--dead-after 1ms", "5s at least"},
		"raft autopilot set-config -g g --stable 1us":     {"--stable 1µs", "1ms at least"},
		"raft status extra":                               {"raftmq raft status takes no argument"},
		"bench produce --senders 0":                       {"--senders 0", "1 to 100000"},
		"bench produce --queues 0":                        {"--queues 0"},
		"bench produce --cluster /nowhere/cluster.json":   {"/nowhere/cluster.json"},
		"verify":                               {"--dir is missing", "see raftmq verify --help"},
		"dev --nodes 0":                        {"--nodes 0", "1 to 9 nodes"},
		"dev --groups 99":                      {"--groups 99", "1 to 26 groups"},
		"server":                               {"--config is missing", "see raftmq server --help"},
		"server --config /nowhere/raftmq.yaml": {"/nowhere/raftmq.yaml", "no such file"},
		"namesrv --listen nowhere":             {"--listen nowhere", "HOST:PORT"},
		"namesrv --log-level loud":             {"--log-level loud", "debug"},
	} {
		t.Run(line, func(t *testing.T) {
			r := raftmq(t, strings.Fields(line)...).want(t, exitUsage, want...)
			if r.out != "" || strings.Count(r.err, "\n") != 1 || !strings.HasPrefix(r.err, "raftmq: ") {
				t.Errorf("printed %q and %q, want one line on standard error", r.out, r.err)
			}
		})
	}
}

// Nothing listens where the name server should be: exit code 1, the address, and
// what to do.
func TestNoBroker(t *testing.T) {
	free := ownPort(t)
	env := []string{"RAFTMQ_NAMESRV=" + free}
	for _, line := range []string{
		"topic list", "topic create A", "topic describe A", "topic delete A",
		"raft status", "raft list-peers", "raft snapshot", "raft scrub", "raft verify", "raft transfer-leader --group broker-a",
		"produce --topic A --size 1 --count 1 --timeout 1s", "consume --topic A --group g", "consume --topic A --group g --idle 10s",
		"bench produce --duration 1s", "bench consume --duration 1s",
	} {
		t.Run(line, func(t *testing.T) {
			r := raftmqIn(t, env, nil, strings.Fields(line)...).want(t, exitFailed, free, "--namesrv or RAFTMQ_NAMESRV", "raftmq dev")
			if r.out != "" {
				t.Errorf("printed %q", r.out)
			}
		})
	}
	for _, line := range []string{"verify --dir /nowhere/at/all", "namesrv --listen 203.0.113.1:1"} {
		raftmq(t, strings.Fields(line)...).want(t, exitFailed, strings.Fields(line)[1][2:])
	}
}

// A broker that takes sends and never answers: exit code 3.
func TestUnknownOutcome(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := &remoting.Server{Handler: remoting.HandlerFunc(func(_ *remoting.Conn, req *remoting.Command) {
		var resp remoting.Command
		switch req.Code {
		case remoting.SendMessage, remoting.SendMessageV2, remoting.SendBatchMessage:
			return
		case remoting.GetRouteInfoByTopic:
			route := remoting.RouteData{
				Queues:  []remoting.QueueData{{BrokerName: "broker-a", ReadQueueNums: 1, WriteQueueNums: 1, Perm: 6}},
				Brokers: []remoting.BrokerData{{Cluster: "c", BrokerName: "broker-a", Addrs: map[int64]string{0: l.Addr().String()}}},
			}
			resp.Body = route.AppendBody(nil, true)
		}
		req.Responder().Respond(&resp)
	})}
	served := make(chan error, 1)
	go func() { served <- silent.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		silent.Shutdown(ctx) // what is unanswered stays so
		if err := <-served; !errors.Is(err, remoting.ErrClosed) {
			t.Error(err)
		}
	})
	raftmq(t, "produce", "--namesrv", l.Addr().String(), "--topic", "A", "--size", "1", "--count", "1", "--timeout", "500ms").
		want(t, exitUnknown, "outcome unknown", "raftmq raft status")
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{usage("x"), exitUsage},
		{fmt.Errorf("x: %w", broker.ErrConfig), exitUsage},
		{fmt.Errorf("x: %w", client.ErrConfig), exitUsage},
		{fmt.Errorf("x: %w", client.ErrMessage), exitUsage},
		{fmt.Errorf("x: %w", client.ErrLimbo), exitUnknown},
		{errors.Join(errors.New("first"), client.ErrLimbo), exitUnknown},
		{client.ErrNotSent, exitFailed},
		{errors.New("x"), exitFailed},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}

func TestJSONKeys(t *testing.T) {
	for heading, want := range map[string]string{"msg/s": "msgPerS", "read queues": "readQueues", "cpu us/msg": "cpuUsPerMsg", "p99.9": "p99.9", "MB": "mb"} {
		if got := jsonKey(heading); got != want {
			t.Errorf("%q: %q, want %q", heading, got, want)
		}
	}
	var out strings.Builder
	never := newTable("last stored")
	never.add(time.Time{})
	if err := printJSON(&out, never.objects()); err != nil || !strings.Contains(out.String(), `"lastStored": null`) {
		t.Errorf("no time in JSON: %s, %v", out.String(), err)
	}
	if got := cellText(1500 * time.Millisecond); got != "1.5s" {
		t.Error(got)
	}
}
