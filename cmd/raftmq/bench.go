package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

const benchTopic = "RaftmqBench"

func benchCommand() *cli.Command {
	common := []cli.Flag{
		namesrvFlag, outputFlag,
		&cli.StringFlag{Name: "topic", Aliases: []string{"t"}, Value: benchTopic, Usage: "`TOPIC`, made if it is not there"},
		&cli.DurationFlag{Name: "duration", Value: 10 * time.Second, Usage: "`TIME` of each measurement"},
		&cli.StringFlag{Name: "cluster", Usage: "`FILE` cluster.json of raftmq dev: its processes' CPU time is counted too"},
	}
	return &cli.Command{
		Name:  "bench",
		Usage: "measure how fast a cluster takes and gives messages",
		Subcommands: []*cli.Command{
			{Name: "produce", Usage: "senders that each wait for the answer before the next message", Flags: append(slices.Clone(common),
				&cli.StringFlag{Name: "senders", Value: "1,64,512", Usage: "`N,N,...` numbers of concurrent senders, one measurement each"},
				&cli.IntFlag{Name: "size", Value: 1024, Usage: "`BYTES` of a message's body"},
				&cli.IntFlag{Name: "queues", Value: 8, Usage: "`N` queues of the topic, if it is made"},
			), Action: benchProduce},
			{Name: "consume", Usage: "a consumer group of one client, from the topic's beginning", Flags: common, Action: benchConsume},
		},
	}
}

// cpuMeter counts the CPU time of this process and of a cluster's.
type cpuMeter struct{ pids []int }

func newCPUMeter(file string) (*cpuMeter, error) {
	m := &cpuMeter{pids: []int{os.Getpid()}}
	if file == "" {
		return m, nil
	}
	cluster, err := readCluster(file)
	if err != nil {
		return nil, err
	}
	for _, n := range cluster.Nodes {
		m.pids = append(m.pids, n.Pid)
	}
	return m, nil
}

// clockTick is the unit of CPU times in /proc: 1/100 s on every Linux.
const clockTick = 10 * time.Millisecond

// read is the CPU time used so far. A process that is gone, as one of a node that
// was started again, is left out from then on, with a note.
func (m *cpuMeter) read() (map[int]time.Duration, error) {
	used := map[int]time.Duration{}
	for _, pid := range slices.Clone(m.pids) {
		t, err := cpuTime(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			fmt.Fprintf(os.Stderr, "process %d of the cluster has ended: its CPU time is not counted\n", pid)
			m.pids = slices.DeleteFunc(m.pids, func(p int) bool { return p == pid })
			continue
		}
		if err != nil {
			return nil, err
		}
		used[pid] = t
	}
	return used, nil
}

// cpuSince is what the processes of after have used since before.
func cpuSince(before, after map[int]time.Duration) (sum time.Duration) {
	for pid, t := range after {
		sum += t - before[pid]
	}
	return sum
}

func cpuTime(pid int) (sum time.Duration, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// Behind the name, which may hold anything: state is field 3, utime 14, stime 15.
	_, rest, ok := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * clockTick
	}
	return sum, nil
}

func benchProduce(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	var counts []int
	for text := range strings.SplitSeq(c.String("senders"), ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > 100_000 {
			return usage("--senders %s: want numbers from 1 to 100000, separated by commas", c.String("senders"))
		}
		counts = append(counts, n)
	}
	if n := c.Int("queues"); n < 1 || n > maxQueues {
		return usage("--queues %d: want 1 to %d", n, maxQueues)
	}
	if size := c.Int("size"); size < 0 || size > maxLine {
		return usage("--size %d: want 0 to %d", size, maxLine)
	}
	cpu, err := newCPUMeter(c.String("cluster"))
	if err != nil {
		return err
	}
	t := newTable("senders", "size", "msg/s", "p50", "p99", "p99.9", "max", "cpu us/msg", "errors")
	err = withClient(c, func(ctx context.Context, cl *client.Client) error {
		topic := client.NewTopicConfig(c.String("topic"))
		topic.ReadQueueNums, topic.WriteQueueNums = int32(c.Int("queues")), int32(c.Int("queues"))
		if _, err := createTopic(ctx, cl.Admin(), topic, nil); err != nil {
			return err
		}
		p, err := cl.NewProducer(client.ProducerConfig{})
		if err != nil {
			return err
		}
		for _, n := range counts {
			m := measurement{p: p, topic: topic.Name, body: make([]byte, c.Int("size"))}
			before, err := cpu.read()
			if err != nil {
				return err
			}
			m.run(ctx, n, c.Duration("duration"))
			after, err := cpu.read()
			if err != nil {
				return err
			}
			if len(m.took) == 0 {
				return fmt.Errorf("nothing was stored: %w", m.err)
			}
			slices.Sort(m.took)
			at := func(q float64) time.Duration { return m.took[int(q*float64(len(m.took)-1))] }
			t.add(n, c.Int("size"), float64(len(m.took))/m.elapsed.Seconds(), at(0.5), at(0.99), at(0.999), at(1),
				float64(cpuSince(before, after).Microseconds())/float64(len(m.took)), m.failed)
		}
		return nil
	})
	return printRows(c, t, err)
}

// printRows prints what was measured before an error, if anything was.
func printRows(c *cli.Context, t *table, err error) error {
	if err != nil && len(t.rows) == 0 {
		return err
	}
	return errors.Join(t.print(c), err)
}

// measurement is a number of senders, each sending one message after the other.
type measurement struct {
	p     *client.Producer
	topic string
	body  []byte

	mu      sync.Mutex
	took    []time.Duration
	failed  int
	err     error
	elapsed time.Duration
}

func (m *measurement) run(ctx context.Context, senders int, d time.Duration) {
	begun := time.Now()
	var group sync.WaitGroup
	for range senders {
		group.Go(func() {
			var took []time.Duration
			failed := 0
			var failure error
			for time.Since(begun) < d && ctx.Err() == nil {
				at := time.Now()
				if _, err := m.p.Send(ctx, &client.Message{Topic: m.topic, Body: m.body}); err != nil {
					failed++
					failure = err
					continue
				}
				took = append(took, time.Since(at))
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.took = append(m.took, took...)
			m.failed += failed
			m.err = errors.Join(m.err, failure)
		})
	}
	group.Wait()
	m.elapsed = time.Since(begun)
}

func benchConsume(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	cpu, err := newCPUMeter(c.String("cluster"))
	if err != nil {
		return err
	}
	t := newTable("messages", "MB", "seconds", "msg/s", "MB/s", "cpu us/msg")
	err = withClient(c, func(ctx context.Context, cl *client.Client) error {
		if _, err := cl.Admin().TopicRoute(ctx, c.String("topic")); err != nil {
			return err
		}
		consumer, err := cl.NewPushConsumer(client.PushConfig{Group: fmt.Sprintf("bench_%d", time.Now().UnixNano()), From: client.FromFirst, ConsumeBatch: 32})
		if err != nil {
			return err
		}
		var n, size, first, last atomic.Int64
		begun := time.Now()
		err = consumer.Subscribe(c.String("topic"), "*", func(_ context.Context, msgs []*client.MessageExt) error {
			first.CompareAndSwap(0, int64(time.Since(begun)))
			for _, m := range msgs {
				size.Add(int64(len(m.Body)))
			}
			n.Add(int64(len(msgs)))
			last.Store(int64(time.Since(begun)))
			return nil
		})
		if err != nil {
			return err
		}
		before, err := cpu.read()
		if err != nil {
			return err
		}
		if err := consumer.Start(ctx); err != nil {
			return err
		}
		// Until the time is over, or nothing came for a while.
		for deadline := begun.Add(c.Duration("duration")); time.Now().Before(deadline) && ctx.Err() == nil; {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			if at := last.Load(); at > 0 && int64(time.Since(begun))-at > int64(2*time.Second) {
				break
			}
		}
		after, err := cpu.read()
		if err != nil {
			return err
		}
		if n.Load() == 0 {
			return fmt.Errorf("there is no message in %s: run raftmq bench produce first", c.String("topic"))
		}
		seconds := max(float64(last.Load()-first.Load())/float64(time.Second), 0.001)
		mb := float64(size.Load()) / 1e6
		t.add(n.Load(), mb, seconds, float64(n.Load())/seconds, mb/seconds, float64(cpuSince(before, after).Microseconds())/float64(n.Load()))
		return nil
	})
	return printRows(c, t, err)
}
