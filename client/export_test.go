package client

import (
	"fmt"
	"sync"
	"testing"

	"github.com/raftmq/raftmq/remoting"
)

// exampleTB is the testing.TB of a cluster that belongs to no test but to all examples.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (e *exampleTB) Helper()          {}
func (e *exampleTB) Cleanup(f func()) { e.cleanups = append(e.cleanups, f) }
func (e *exampleTB) Fatal(args ...any) {
	panic(fmt.Sprint(args...))
}
func (e *exampleTB) Error(args ...any) {
	panic(fmt.Sprint(args...))
}

func (e *exampleTB) stop() {
	for _, f := range e.cleanups {
		f()
	}
}

var examples exampleTB

// ExampleServers starts a cluster on real sockets for the examples and returns its name server's address.
var ExampleServers = sync.OnceValue(func() string {
	c := newCluster(&examples, sockets{}, 1, 3)
	c.topic(remoting.TopicHalf, 1)
	for _, topic := range []string{"orders", "payments", "invoices", "accounts", "news", "readings", "prices", "letters", "archive", "traced", "sold"} {
		c.topic(topic, 1)
	}
	return c.ns.addr
})
