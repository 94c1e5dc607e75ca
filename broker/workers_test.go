package broker

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// What waits for a worker is bounded by all the bytes that it keeps: a request may
// be nothing but header.
func TestRequestsThatWaitAreBoundedByTheirBytes(t *testing.T) {
	pool := newWorkers(1, time.Minute)
	h := blocking(func(_ *Broker, ctx context.Context, _ *session, _ *remoting.Command) (answer, error) {
		<-ctx.Done()
		return answer{}, ctx.Err()
	}, func(*Broker) *workers { return pool })
	large := strings.Repeat("x", 1<<20)
	for range 2 * maxWaitingBytes >> 20 {
		h(nil, nil, &remoting.Command{Ext: remoting.Fields{{Key: "topic", Value: large}}})
	}
	pool.mu.Lock()
	waiting, bytes := len(pool.waiting), pool.bytes
	pool.mu.Unlock()
	if waiting == 0 || bytes > maxWaitingBytes {
		t.Errorf("%d requests wait, with %d bytes by the pool's count", waiting, bytes)
	}
	if most := maxWaitingBytes / len(large); waiting > most {
		t.Errorf("%d requests of %d bytes wait, want %d at most", waiting, len(large), most)
	}
	pool.close()
}
