package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/hashicorp/go-hclog"
	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/broker"
)

// stopTimeout bounds a graceful stop.
const stopTimeout = 40 * time.Second

var logFlags = []cli.Flag{
	&cli.StringFlag{Name: "log-level", Value: "info", Usage: "`LEVEL`: trace, debug, info, warn, error or off", EnvVars: []string{"RAFTMQ_LOG_LEVEL"}},
	&cli.BoolFlag{Name: "log-json", Usage: "log JSON, one object a line", EnvVars: []string{"RAFTMQ_LOG_JSON"}},
}

func newLogger(c *cli.Context) (hclog.Logger, error) {
	level := hclog.LevelFromString(c.String("log-level"))
	if level == hclog.NoLevel {
		return nil, usage("--log-level %s: want trace, debug, info, warn, error or off", c.String("log-level"))
	}
	return hclog.New(&hclog.LoggerOptions{Name: "raftmq", Level: level, JSONFormat: c.Bool("log-json"), Output: os.Stderr}), nil
}

func serverCommand() *cli.Command {
	return &cli.Command{
		Name:  "server",
		Usage: "run a node",
		Description: "One YAML file describes the cluster; --node says which of its nodes this is. Every top-level\n" +
			"key can be set by --set key=value, or by an environment variable: RAFTMQ_FLUSH_DISK_TYPE sets\n" +
			"flushDiskType. --set goes before the environment, and that before the file.\n\n" +
			"SIGTERM and SIGINT stop the node gracefully: it gives its leaderships away first.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "YAML `FILE`", Required: true, EnvVars: []string{"RAFTMQ_CONFIG"}},
			&cli.StringFlag{Name: "node", Usage: "`ID` of this node among nodes", EnvVars: []string{"RAFTMQ_NODE_ID"}},
			&cli.StringSliceFlag{Name: "set", Usage: "`KEY=VALUE`, more than once for more keys"},
		}, logFlags...),
		Action: runServer,
	}
}

// environment reads the keys that environment variables set.
func environment() map[string]string {
	values := map[string]string{}
	for _, key := range broker.Keys() {
		if v, ok := os.LookupEnv("RAFTMQ_" + snake(key)); ok {
			values[key] = v
		}
	}
	return values
}

// snake turns flushDiskType into FLUSH_DISK_TYPE.
func snake(key string) string {
	var b strings.Builder
	for _, r := range key {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

func serverConfig(c *cli.Context) (broker.Config, error) {
	cfg, err := broker.LoadConfig(c.String("config"))
	if err != nil {
		return cfg, err
	}
	values := environment()
	if node := c.String("node"); node != "" {
		values["nodeId"] = node
	}
	for _, kv := range c.StringSlice("set") {
		key, value, ok := strings.Cut(kv, "=")
		if !ok {
			return cfg, usage("--set %s: want KEY=VALUE", kv)
		}
		values[key] = value
	}
	return cfg, cfg.Override(values)
}

func runServer(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	logger, err := newLogger(c)
	if err != nil {
		return err
	}
	cfg, err := serverConfig(c)
	if err != nil {
		return err
	}
	n, err := broker.Open(cfg, logger)
	if err != nil {
		return err
	}
	logger.Info("the node is up", "node", cfg.NodeID, "version", version)
	<-c.Context.Done()
	logger.Info("stopping; a second signal stops at once")
	return stop(n.Close)
}

// stop ends what was running, in stopTimeout, or at once on a second signal.
func stop(end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	ctx, again := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer again()
	return end(ctx)
}

func namesrvCommand() *cli.Command {
	return &cli.Command{
		Name:  "namesrv",
		Usage: "run a name service alone",
		Description: "Every node has a name service of its own, so a cluster needs no other. This one is for a\n" +
			"cluster whose clients know name servers elsewhere. It takes brokers of RocketMQ as well.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "listen", Value: "0.0.0.0:9876", Usage: "`HOST:PORT`"},
			&cli.StringFlag{Name: "kv", Usage: "`FILE` that keeps the KV configuration; without it, it is forgotten"},
			&cli.DurationFlag{Name: "wait-for-service", Value: 45 * time.Second, Usage: "`TIME` after the start in which an unknown topic may be one that nobody has registered yet"},
		}, logFlags...),
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			logger, err := newLogger(c)
			if err != nil {
				return err
			}
			if _, _, err := net.SplitHostPort(c.String("listen")); err != nil {
				return usage("--listen %s: want HOST:PORT, or :PORT for all addresses", c.String("listen"))
			}
			l, err := net.Listen("tcp", c.String("listen"))
			if err != nil {
				return fmt.Errorf("--listen: %w", err)
			}
			n, err := broker.OpenNameServer(l, c.String("kv"), c.Duration("wait-for-service"), logger)
			if err != nil {
				return err
			}
			logger.Info("the name service is up", "address", l.Addr())
			select {
			case <-c.Context.Done():
			case <-n.Ended():
			}
			return stop(n.Close)
		},
	}
}
