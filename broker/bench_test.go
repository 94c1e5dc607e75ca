package broker

import (
	"fmt"
	"sync"
	"testing"

	"github.com/raftmq/raftmq/remoting"
)

// BenchmarkSend sends 1 KiB messages with this many outstanding to a cluster of
// three nodes in this process.
func BenchmarkSend(b *testing.B) {
	for _, senders := range []int{1, 64, 512} {
		b.Run(fmt.Sprint("senders=", senders), func(b *testing.B) {
			c := startCluster(b, 3, func(c *Config) { c.MappedFileSizeCommitLog = 64 << 20; c.RaftSegmentSize = 64 << 20 })
			leader := c.leader(b)
			conn := dial(b, leader)
			conn.topic("T", 8)
			body := make([]byte, 1024)
			uniq := remoting.NewUniqKeys(leader.addr.Addr())
			b.ResetTimer()
			var group sync.WaitGroup
			var mu sync.Mutex
			left := b.N
			var next func()
			group.Add(b.N)
			next = func() {
				mu.Lock()
				left--
				n := left
				mu.Unlock()
				if n < 0 {
					return
				}
				h := message("T", int32(n%8), remoting.PropUniqKey, uniq.Next())
				err := conn.conn.CallAsync(&remoting.Command{Code: remoting.SendMessageV2, Header: h, Body: body}, 0, func(resp *remoting.Command, err error) {
					if err != nil || resp.Code != 0 {
						b.Error(resp, err)
					}
					group.Done()
					next()
				})
				if err != nil {
					b.Error(err)
				}
			}
			for range senders {
				go next()
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
