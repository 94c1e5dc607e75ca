package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// Heap is measured in a process that does nothing else: this test binary again,
// told by childEnv what to do.
const childEnv = "RAFTMQ_TEST_CHILD"

var children = map[string]func() error{"memory": memoryChild, "timers": timersChild}

const (
	idleHeap    = 100 << 20 // an idle node's
	parkedPulls = 10_000
	parkedHeap  = 64 << 20 // theirs
)

// Row 38 of the fault matrix, and the idle node.
func TestHeapOfANodeAndOfParkedPulls(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=memory")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

func heapInUse() int64 {
	var m runtime.MemStats
	for range 3 { // finalizers and pools
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// memoryChild measures a node of three groups, idle and with pulls parked.
func memoryChild() (err error) {
	dir, err := os.MkdirTemp("", "raftmq-memory-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	c, err := newCluster(dir, 1, func(c *Config) {
		for i, port := range ports {
			c.Groups = append(c.Groups, GroupConfig{BrokerName: fmt.Sprint("broker-", i), Replicas: map[string]string{"n1": port}})
		}
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	brokers := c.nodes["n1"].Brokers()
	if err := until("leaders", func() bool {
		for _, b := range brokers {
			if b.leading.ready.Load() == 0 {
				return false
			}
		}
		return true
	}); err != nil {
		return err
	}
	idle := heapInUse()
	fmt.Printf("an idle node of %d groups: %.1f MiB of heap, of %d allowed\n", len(brokers), float64(idle)/(1<<20), idleHeap>>20)
	if idle > idleHeap {
		err = errors.Join(err, errors.New("an idle node takes too much"))
	}
	parked, perr := parkPulls(brokers[0])
	if perr != nil {
		return errors.Join(err, perr)
	}
	fmt.Printf("%d parked pulls: %.1f MiB of heap, of %d allowed\n", parkedPulls, float64(parked)/(1<<20), parkedHeap>>20)
	if parked > parkedHeap {
		err = errors.Join(err, errors.New("parked pulls take too much"))
	}
	return err
}

// parkPulls parks pulls with a broker, over ten connections, and says what they
// take. They come as stock clients send them: with JSON headers.
func parkPulls(b *Broker) (int64, error) {
	for _, name := range []string{"T", "U"} {
		topic := ownTopic(name, 5000)
		conn, err := net.Dial("tcp", b.addr.String())
		if err != nil {
			return 0, err
		}
		err = writeRead(conn, &remoting.Command{Code: remoting.UpdateAndCreateTopic, Header: &topic})
		if err = errors.Join(err, conn.Close()); err != nil {
			return 0, err
		}
	}
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close() // nobody waits for what they were asked
		}
	}()
	for range 10 {
		c, err := net.Dial("tcp", b.addr.String())
		if err != nil {
			return 0, err
		}
		conns = append(conns, c)
		if err := writeRead(c, &remoting.Command{Code: remoting.GetConsumerListByGroup, Header: &remoting.ConsumerGroupRequest{ConsumerGroup: "g"}}); err != nil {
			return 0, err
		}
	}
	before := heapInUse()
	for i := range parkedPulls {
		h := pullOf([]string{"T", "U"}[i%2], int32(i/2%5000), 0, held(time.Minute), tagged("TagA || TagB"))
		h.ConsumerGroup = "a_consumer_group_with_a_usual_name"
		frame, err := remoting.AppendFrame(nil, &remoting.Command{Code: remoting.PullMessage, Opaque: int32(i), Header: h, Version: 317})
		if err != nil {
			return 0, err
		}
		if _, err := conns[i%len(conns)].Write(frame); err != nil {
			return 0, err
		}
	}
	if err := until("all pulls parked", func() bool { return b.holds.count() == parkedPulls }); err != nil {
		return 0, fmt.Errorf("%w: %d are", err, b.holds.count())
	}
	return heapInUse() - before, nil
}

// writeRead asks over a bare connection, and reads the answer away.
func writeRead(c net.Conn, req *remoting.Command) error {
	frame, err := remoting.AppendFrame(nil, req)
	if err != nil {
		return err
	}
	if _, err := c.Write(frame); err != nil {
		return err
	}
	_, err = readFrame(c)
	return err
}

// readFrame reads one frame.
func readFrame(c net.Conn) (*remoting.Command, error) {
	head := make([]byte, 4)
	if err := c.SetReadDeadline(time.Now().Add(callTimeout)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, head); err != nil {
		return nil, err
	}
	frame := append(head, make([]byte, binary.BigEndian.Uint32(head))...)
	if _, err := io.ReadFull(c, frame[4:]); err != nil {
		return nil, err
	}
	cmd := new(remoting.Command)
	return cmd, remoting.DecodeFrame(frame, cmd)
}
