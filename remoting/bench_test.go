package remoting

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// sendV2 is a SendMessageV2 request of an ordinary message.
func sendV2(body int) *Command {
	props := AppendProperty(nil, PropUniqKey, "0A00000904D2251A69D75A7F3A7C0001")
	props = AppendProperty(props, PropWait, "true")
	props = AppendProperty(props, PropTags, "TagA")
	props = AppendProperty(props, PropKeys, "order-1000123")
	return &Command{Code: SendMessageV2, Opaque: 12345, Version: 477, Body: make([]byte, body), Header: &SendHeader{
		ProducerGroup: "please_rename_unique_group_name", Topic: "TopicTest", DefaultTopic: TopicAutoCreate, DefaultTopicQueueNums: 4,
		QueueID: 3, BornTimestamp: 1700000000000, Properties: string(props), MaxReconsumeTimes: 0, BrokerName: "broker-a", Batch: true,
	}}
}

func BenchmarkHeaderDecode(b *testing.B) {
	for _, s := range []Serialize{JSON, Binary} {
		b.Run(map[Serialize]string{JSON: "json", Binary: "binary"}[s], func(b *testing.B) {
			req := sendV2(0)
			req.Serialize = s
			frame, err := AppendFrame(nil, req)
			if err != nil {
				b.Fatal(err)
			}
			work := make([]byte, len(frame))
			var d headerDecoder
			var c Command
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				copy(work, frame) // decoding unescapes in place
				if err := d.decode(work, &c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("send fields", func(b *testing.B) {
		frame, _ := AppendFrame(nil, sendV2(0))
		var c Command
		if err := DecodeFrame(frame, &c); err != nil {
			b.Fatal(err)
		}
		var h SendHeader
		b.ReportAllocs()
		for b.Loop() {
			if err := h.Decode(&c); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkHeaderEncode(b *testing.B) {
	for _, s := range []Serialize{JSON, Binary} {
		b.Run(map[Serialize]string{JSON: "json", Binary: "binary"}[s], func(b *testing.B) {
			req := sendV2(0)
			req.Serialize = s
			var dst []byte
			var e FieldEncoder
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if dst, err = appendHead(dst[:0], req, 0, DefaultMaxFrame, &e); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(dst)))
		})
	}
}

func BenchmarkRecord(b *testing.B) {
	host := netip.MustParseAddrPort("10.0.0.1:10911")
	r := Record{BornHost: host, StoreHost: host, Topic: "TopicTest", Body: make([]byte, 1024), Properties: AppendProperty(nil, PropTags, "TagA")}
	encoded, err := AppendRecord(nil, &r)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("append", func(b *testing.B) {
		dst := make([]byte, 0, len(encoded))
		b.SetBytes(int64(len(encoded)))
		b.ReportAllocs()
		for b.Loop() {
			if dst, err = AppendRecord(dst[:0], &r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.SetBytes(int64(len(encoded)))
		b.ReportAllocs()
		for b.Loop() {
			v, err := ParseRecord(encoded)
			if err != nil || v.QueueOffset() != 0 {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkConn sends a 1 KiB message's request over loopback TCP and takes a send's answer, with so many calls outstanding.
func BenchmarkConn(b *testing.B) {
	for _, calls := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("calls=%d", calls), func(b *testing.B) {
			client := benchConn(b)
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ReportAllocs()
			cpu := cpuTime()
			b.ResetTimer()
			for range calls {
				wg.Go(func() {
					req := sendV2(1024)
					for left.Add(-1) >= 0 {
						if resp, err := client.Call(context.Background(), req); err != nil || resp.Code != Success {
							b.Error(resp, err)
							return
						}
					}
				})
			}
			wg.Wait()
			report(b, cpu)
		})
	}
	b.Run("async=512", func(b *testing.B) {
		client := benchConn(b)
		req := sendV2(1024)
		b.ReportAllocs()
		cpu := cpuTime()
		b.ResetTimer()
		slots := make(chan struct{}, 512)
		for range b.N {
			slots <- struct{}{}
			if err := client.CallAsync(req, 0, func(*Command, error) { <-slots }); err != nil {
				b.Fatal(err)
			}
		}
		for range cap(slots) {
			slots <- struct{}{}
		}
		report(b, cpu)
	})
}

// report gives the figures of a run over a connection: a call is two frames, and the processor time is that of both ends.
func report(b *testing.B, cpu time.Duration) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/call")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchConn(b *testing.B) *Conn {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var h SendHeader
	server := &Server{Handler: HandlerFunc(func(c *Conn, req *Command) {
		if err := h.Decode(req); err != nil {
			req.Responder().Error(err)
			return
		}
		req.Responder().Respond(&Command{Header: &SendResponse{
			MsgID: "7F00000100002A9F0000000000000400", QueueID: h.QueueID, QueueOffset: 7, TransactionID: "0A00000904D2251A69D75A7F3A7C0001",
		}})
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	client := NewConn(nc, ConnConfig{}, nil)
	b.Cleanup(func() {
		client.Close()
		server.Close()
		<-served
	})
	return client
}
