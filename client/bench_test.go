package client

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// benchServerEnv makes the test binary a broker that answers at once, so that a benchmark measures the CPU of the client alone.
const benchServerEnv = "RAFTMQ_BENCH_SERVER"

// benchServer serves until its standard input ends. It prints its address.
func benchServer() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var route remoting.RouteData
	route.Brokers = []remoting.BrokerData{{Cluster: "c", BrokerName: "b", Addrs: map[int64]string{0: l.Addr().String()}}}
	route.Queues = []remoting.QueueData{{BrokerName: "b", ReadQueueNums: 4, WriteQueueNums: 4, Perm: remoting.PermRead | remoting.PermWrite}}
	body := route.AppendBody(nil, true)
	var records []byte
	for range 32 {
		if records, err = remoting.AppendRecord(records, &remoting.Record{Topic: "T", Body: make([]byte, 1024),
			Properties: remoting.AppendProperty(nil, remoting.PropUniqKey, "0A00000904D2251A69D75A7F3A7C0001")}); err != nil {
			return err
		}
	}
	ok := &remoting.Command{Header: &remoting.SendResponse{MsgID: "7F00000100002A9F0000000000000400", QueueOffset: 7}}
	s := &remoting.Server{Handler: remoting.HandlerFunc(func(_ *remoting.Conn, req *remoting.Command) {
		switch req.Code {
		case remoting.GetRouteInfoByTopic:
			req.Responder().Respond(&remoting.Command{Body: body})
		case remoting.PullMessage:
			at := req.Ext.Reader()
			next := at.Int64("queueOffset") + 32
			req.Responder().Respond(&remoting.Command{Header: &remoting.PullResponse{NextBeginOffset: next, MaxOffset: next + 1000}, Body: records})
		default:
			req.Responder().Respond(ok)
		}
	})}
	go func() {
		io.Copy(io.Discard, os.Stdin) // until the benchmark's process has gone
		s.Close()
	}()
	fmt.Println(l.Addr())
	if err := s.Serve(l); err != remoting.ErrClosed {
		return err
	}
	return nil
}

// benchClient returns a client of a broker in a process of its own.
func benchClient(b *testing.B) *Client {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), benchServerEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	c, err := New(Config{NameServers: strings.TrimSpace(addr)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return c
}

// cpu returns the CPU time that this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs f and reports the rate of ops and the CPU time of each.
func measure(b *testing.B, f func()) {
	b.ReportAllocs()
	b.ResetTimer()
	used := cpu(b)
	f()
	b.ReportMetric(float64(cpu(b)-used)/float64(b.N)/1000, "cpu-us/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}

// BenchmarkSend sends messages of 1 KiB to a broker that answers at once. cpu-us/op is the client's alone.
func BenchmarkSend(b *testing.B) {
	for _, senders := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) {
			p, err := benchClient(b).NewProducer(ProducerConfig{})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := p.Send(context.Background(), &Message{Topic: "T"}); err != nil {
				b.Fatal(err)
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			measure(b, func() {
				var wg sync.WaitGroup
				for range senders {
					wg.Go(func() {
						m := &Message{Topic: "T", Body: make([]byte, 1024), Tags: "TagA"}
						for left.Add(-1) >= 0 {
							if _, err := p.Send(context.Background(), m); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		})
	}
	b.Run("async", func(b *testing.B) {
		p, err := benchClient(b).NewProducer(ProducerConfig{MaxInFlight: 512})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Send(context.Background(), &Message{Topic: "T"}); err != nil {
			b.Fatal(err)
		}
		m := &Message{Topic: "T", Body: make([]byte, 1024), Tags: "TagA"}
		measure(b, func() {
			var all sync.WaitGroup
			all.Add(b.N)
			for range b.N {
				p.SendAsync(context.Background(), m, func(_ *SendResult, err error) {
					if err != nil {
						b.Error(err)
					}
					all.Done()
				})
			}
			all.Wait()
		})
	})
	b.Run("batch=32", func(b *testing.B) {
		p, err := benchClient(b).NewProducer(ProducerConfig{})
		if err != nil {
			b.Fatal(err)
		}
		var batch []*Message
		for range 32 {
			batch = append(batch, &Message{Topic: "T", Body: make([]byte, 1024), Tags: "TagA"})
		}
		measure(b, func() {
			for i := 0; i < b.N; i += len(batch) {
				if _, err := p.SendBatch(context.Background(), batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

// BenchmarkSendWork is what a send costs besides the connection: making the request and reading the answer.
func BenchmarkSendWork(b *testing.B) {
	p, err := benchClient(b).NewProducer(ProducerConfig{})
	if err != nil {
		b.Fatal(err)
	}
	m := &Message{Topic: "T", Body: make([]byte, 1024), Tags: "TagA"}
	if _, err := p.Send(context.Background(), m); err != nil {
		b.Fatal(err)
	}
	peer := p.c.group("b").leader.Load()
	resp := &remoting.Command{}
	for k, v := range map[string]string{"msgId": "7F00000100002A9F0000000000000400", "queueId": "0", "queueOffset": "7", "TRACE_ON": "true"} {
		resp.Ext.Add(k, v)
	}
	b.ReportAllocs()
	for b.Loop() {
		s := newSend(p)
		if err := s.single(m); err != nil {
			b.Fatal(err)
		}
		if err := s.begin(context.Background(), nil); err != nil {
			b.Fatal(err)
		}
		if _, _, done := s.after(context.Background(), peer, resp, nil); !done {
			b.Fatal("not stored")
		}
		s.free()
	}
}

// BenchmarkPull pulls messages of 1 KiB, 32 at once, from a broker that answers at once.
func BenchmarkPull(b *testing.B) {
	c := benchClient(b)
	p, err := c.NewPullConsumer(PullConfig{Group: "g"})
	if err != nil {
		b.Fatal(err)
	}
	mq := MessageQueue{Topic: "T", BrokerName: "b"}
	offset := int64(0)
	measure(b, func() {
		for offset < int64(b.N) {
			res, err := p.Pull(context.Background(), PullRequest{Queue: mq, Offset: offset})
			if err != nil {
				b.Fatal(err)
			}
			offset = res.NextOffset
		}
	})
}
