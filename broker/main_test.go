package broker

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if child := os.Getenv(childEnv); child != "" {
		if err := children[child](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	err := common.stop()
	if err == nil {
		err = goleak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// common is a cluster of one node that the tests share which need no other. Each
// has topics and groups of its own.
var common commonCluster

type commonCluster struct {
	once sync.Once
	dir  string
	c    *testCluster
	err  error
}

// shared returns the common cluster's broker.
func shared(t testing.TB) *Broker {
	t.Helper()
	common.once.Do(func() {
		if common.dir, common.err = os.MkdirTemp("", "raftmq-broker-test-"); common.err == nil {
			common.c, common.err = newCluster(common.dir, 1, nil)
		}
	})
	if common.err != nil {
		t.Fatal(common.err)
	}
	return common.c.leader(t)
}

func (s *commonCluster) stop() error {
	if s.c != nil {
		if err := s.c.stop(); err != nil {
			return err
		}
	}
	if s.dir == "" {
		return nil
	}
	return os.RemoveAll(s.dir)
}
