package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

// maxQueues bounds what a typing error can make.
const maxQueues = 4096

func topicCommand() *cli.Command {
	return &cli.Command{
		Name:  "topic",
		Usage: "create, list, describe and delete topics",
		Subcommands: []*cli.Command{
			{
				Name: "create", ArgsUsage: "TOPIC", Usage: "create a topic on all broker groups, or change it",
				Flags: []cli.Flag{
					namesrvFlag, outputFlag,
					&cli.IntFlag{Name: "queues", Aliases: []string{"q"}, Value: 8, Usage: "`N` queues on each broker group; with fewer than there were, messages in the others are not consumed any more"},
					&cli.IntFlag{Name: "perm", Value: 6, Usage: "`PERM`: 2 write, 4 read, 6 both"},
					&cli.StringSliceFlag{Name: "broker", Usage: "only on this broker `GROUP`; more than once for more"},
					&cli.StringSliceFlag{Name: "attribute", Usage: "`NAME=VALUE` to set, -NAME to remove; see CONFIGURATION.md, Per topic"},
				},
				Action: topicCreate,
			},
			{Name: "list", Usage: "list the topics", Flags: []cli.Flag{
				namesrvFlag, outputFlag,
				&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "the system's own too, and those of retries and dead letters"},
			}, Action: topicList},
			{Name: "describe", ArgsUsage: "TOPIC", Usage: "show a topic's queues, and its attributes at their broker groups", Flags: []cli.Flag{namesrvFlag, outputFlag}, Action: topicDescribe},
			{Name: "delete", ArgsUsage: "TOPIC", Usage: "delete a topic and its messages", Flags: []cli.Flag{namesrvFlag, outputFlag}, Action: topicDelete},
		},
	}
}

func topicCreate(c *cli.Context) error {
	name, err := oneArg(c, "TOPIC")
	if err != nil {
		return err
	}
	t := client.NewTopicConfig(name)
	t.ReadQueueNums, t.WriteQueueNums = int32(c.Int("queues")), int32(c.Int("queues"))
	t.Perm = int32(c.Int("perm"))
	if n := c.Int("queues"); n < 1 || n > maxQueues {
		return usage("--queues %d: want 1 to %d", n, maxQueues)
	}
	if p := t.Perm; p != client.PermRead && p != client.PermWrite && p != client.PermRead|client.PermWrite {
		return usage("--perm %d: want 2 (write), 4 (read) or 6 (both)", p)
	}
	t.Attributes = map[string]string{}
	for _, a := range c.StringSlice("attribute") {
		key, value, ok := strings.Cut(a, "=")
		switch {
		case ok && key != "":
			t.Attributes["+"+key] = value
			if key != "message.dedup" { // kept, as tools for RocketMQ set their own
				fmt.Fprintf(os.Stderr, "--attribute %s: it is kept, and changes nothing; message.dedup is the one that brokers look at\n", key)
			}
		case strings.HasPrefix(a, "-") && len(a) > 1:
			t.Attributes[a] = ""
		default:
			return usage("--attribute %s: want NAME=VALUE or -NAME", a)
		}
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		route, err := createTopic(ctx, a, t, c.StringSlice("broker"))
		if err != nil {
			return err
		}
		return printRoute(c, name, route)
	})
}

// createTopic creates a topic at brokers, none: all, and waits until the name
// server has heard of it from each of them.
func createTopic(ctx context.Context, a *client.Admin, t client.TopicConfig, brokers []string) (*client.RouteData, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	info, err := a.ClusterInfo(ctx)
	if err != nil {
		return nil, err
	}
	all := slices.Sorted(maps.Keys(info.Brokers))
	if len(all) == 0 {
		return nil, errNoBroker
	}
	for _, b := range brokers {
		if !slices.Contains(all, b) {
			return nil, usage("--broker %s: there is no such broker group; there are %s", b, strings.Join(all, ", "))
		}
	}
	if len(brokers) == 0 {
		brokers = all
	}
	if err := a.CreateTopic(ctx, t, brokers...); err != nil {
		return nil, err
	}
	return awaitRoute(ctx, a, t.Name, func(route *client.RouteData) bool {
		heard := 0
		for _, q := range route.Queues {
			if slices.Contains(brokers, q.BrokerName) && q.ReadQueueNums == t.ReadQueueNums && q.WriteQueueNums == t.WriteQueueNums && q.Perm == t.Perm {
				heard++
			}
		}
		return heard == len(brokers)
	})
}

// awaitRoute waits until the name server knows a topic's route as it should be.
func awaitRoute(ctx context.Context, a *client.Admin, name string, ok func(*client.RouteData) bool) (*client.RouteData, error) {
	for {
		route, err := a.TopicRoute(ctx, name)
		if err == nil && ok(route) || err != nil && !errors.Is(err, client.ErrNoRoute) {
			return route, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("topic %s was made, but the name server has not heard of it from all brokers: see raftmq topic describe %[1]s", name), err)
		}
	}
}

func printRoute(c *cli.Context, name string, route *client.RouteData) error {
	t := newTable("topic", "broker", "read queues", "write queues", "perm")
	for _, q := range route.Queues {
		t.add(name, q.BrokerName, q.ReadQueueNums, q.WriteQueueNums, permText(q.Perm))
	}
	return t.print(c)
}

func permText(perm int32) string {
	out := ""
	if perm&client.PermRead != 0 {
		out += "R"
	}
	if perm&client.PermWrite != 0 {
		out += "W"
	}
	if perm&client.PermInherit != 0 {
		out += "X"
	}
	return out
}

func topicList(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		names, err := a.ListTopics(ctx)
		if err != nil {
			return err
		}
		info, err := a.ClusterInfo(ctx)
		if err != nil {
			return err
		}
		t := newTable("topic")
		for _, name := range names {
			if c.Bool("all") || !systemTopic(name, info) {
				t.add(name)
			}
		}
		return t.print(c)
	})
}

func systemTopic(name string, info *client.ClusterInfo) bool {
	if client.IsSystemTopic(name) || strings.HasSuffix(name, "_REPLY_TOPIC") || strings.HasPrefix(name, "%") {
		return true
	}
	_, broker := info.Brokers[name]
	_, cluster := info.Clusters[name]
	return broker || cluster
}

func topicDescribe(c *cli.Context) error {
	name, err := oneArg(c, "TOPIC")
	if err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		stats, err := a.TopicStats(ctx, name)
		if err != nil {
			return err
		}
		configs, err := a.TopicConfigs(ctx, name)
		if err != nil {
			return err
		}
		t := newTable("topic", "broker", "queue", "first", "next", "messages", "last stored", "attributes")
		for _, q := range stats.Queues {
			var at time.Time
			if q.LastUpdateTimestamp > 0 {
				at = time.UnixMilli(q.LastUpdateTimestamp)
			}
			t.add(name, q.BrokerName, q.QueueID, q.MinOffset, q.MaxOffset, q.MaxOffset-q.MinOffset, at, attributesCell(configs[q.BrokerName].Attributes))
		}
		return t.print(c)
	})
}

// attributesCell are a topic's attributes in a table: NAME=VALUE by commas in
// text, an object in JSON, also if there is none.
type attributesCell map[string]string

func (a attributesCell) String() string {
	if len(a) == 0 {
		return "-"
	}
	var list []string
	for _, name := range slices.Sorted(maps.Keys(a)) {
		list = append(list, name+"="+a[name])
	}
	return strings.Join(list, ",")
}

// MarshalJSON writes attributes that are nil as none.
func (a attributesCell) MarshalJSON() ([]byte, error) {
	if a == nil {
		return []byte("{}"), nil
	}
	return json.Marshal(map[string]string(a))
}

func topicDelete(c *cli.Context) error {
	name, err := oneArg(c, "TOPIC")
	if err != nil {
		return err
	}
	return withAdmin(c, func(ctx context.Context, a *client.Admin) error {
		if _, err := a.TopicRoute(ctx, name); err != nil {
			return err
		}
		switch err := a.DeleteTopic(ctx, name); {
		case errors.Is(err, client.ErrNotTold):
			fmt.Fprintf(os.Stderr, "the topic and its messages are deleted at all broker groups, and there is nothing to do. A name server\n"+
				"that can't be reached hears of it from the brokers when it is back:\n%v\n", err)
		case err != nil:
			return err
		}
		t := newTable("topic", "deleted")
		t.add(name, true)
		return t.print(c)
	})
}
