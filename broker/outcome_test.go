package broker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage/disk"
)

// slowToStepDown makes a leader without a quorum lead for long enough to see what
// it answers meanwhile, and answer soon.
func slowToStepDown(c *Config) {
	c.ElectionTimeout = Duration(1500 * time.Millisecond)
	c.SlaveTimeout = Duration(100 * time.Millisecond)
}

// othersDown stops all replicas but one.
func othersDown(t testing.TB, c *testCluster, b *Broker) (ids []string) {
	for id, other := range c.brokers() {
		if other != b {
			ids = append(ids, id)
		}
	}
	c.end(t, ids...)
	return ids
}

func isUnknown(t testing.TB, r remoting.SendResponse, err error) {
	t.Helper()
	wantCode(t, err, remoting.FlushSlaveTimeout)
	if r.QueueOffset != -1 || len(r.MsgID) != 32 || r.QueueID != 0 {
		t.Errorf("an unknown outcome is answered with %+v", r)
	}
}

// SEND-20, FLUSH-06, FLUSH-07 and the fourth column of the outcomes: a send that
// no quorum has is unknown, is stored once when there is a quorum again, and
// asking under its key tells. When the leader has stepped down, sends are refused
// and never appear.
func TestSEND20AndFLUSH06And07And08UnknownIsNeverCalledNotStored(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, slowToStepDown)
	leader := cl.leader(t)
	c := dial(t, leader)
	c.topic("T", 1)
	c.mustSend(message("T", 0, remoting.PropUniqKey, "before"), "before")
	down := othersDown(t, cl, leader)
	resp, err := c.call(&remoting.Command{Code: remoting.SendMessageV2, Header: message("T", 0, remoting.PropUniqKey, "limbo"), Body: []byte("limbo")})
	var r remoting.SendResponse
	if derr := r.Decode(resp); derr != nil {
		t.Error(derr)
	}
	isUnknown(t, r, err)
	if resp.Ext.Get(extOutcome) != "unknown" {
		t.Errorf("the answer does not say that it is unknown: %v", resp.Ext)
	}
	if got := c.all("T", 0); len(got) != 1 {
		t.Errorf("a message that no quorum has can be pulled: %q", bodiesOf(got)) // FLUSH-08
	}

	// FLUSH-07: once it has stepped down, nothing is proposed.
	eventually(t, "the leader's resignation", func() bool { return !leader.leads() })
	_, err = c.send(message("T", 0, remoting.PropUniqKey, "refused"), "refused")
	wantCode(t, err, remoting.ServiceNotAvailable)

	cl.mustStart(t, down...)
	c = dial(t, cl.leader(t))
	r = c.mustSend(message("T", 0, remoting.PropUniqKey, "limbo"), "limbo")
	if got := bodiesOf(c.all("T", 0)); !slices.Equal(got, []string{"before", "limbo"}) || r.QueueOffset != 1 {
		t.Errorf("in the end %q are there, the answer says %+v", got, r)
	}
}

// SEND-18: what has no room to go is refused, and is not stored.
func TestSEND18NoRoomOnTheWay(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, func(c *Config) {
		slowToStepDown(c)
		c.SlaveTimeout = Duration(time.Minute)
		c.MaxMessageSize = 128 << 10
		c.MaxPendingBytes = 512 << 10
	})
	leader := cl.leader(t)
	c := dial(t, leader)
	c.topic("T", 1)
	down := othersDown(t, cl, leader)
	body := strings.Repeat("x", 100<<10)
	answers := make(chan error, 8)
	for i := range 8 {
		err := c.conn.CallAsync(&remoting.Command{Code: remoting.SendMessageV2, Header: message("T", 0, remoting.PropUniqKey, fmt.Sprint(i)), Body: []byte(body)},
			callTimeout, func(resp *remoting.Command, err error) {
				if err == nil {
					err = resp.Err()
				}
				answers <- err
			})
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 3 { // five have room
		wantCode(t, <-answers, remoting.SystemBusy)
	}
	cl.mustStart(t, down...)
	for range 5 {
		if err := <-answers; err != nil {
			wantCode(t, err, remoting.FlushSlaveTimeout) // leadership was lost on the way
		}
	}
	if got := dial(t, cl.leader(t)).all("T", 0); len(got) > 5 {
		t.Errorf("%d messages are there: refused ones too", len(got))
	}
}

// FLUSH-02: a disk that takes longer than it may. What it has not confirmed in
// time is unknown, and there when it has.
func TestFLUSH02DiskTooSlow(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	dial(t, cl.leader(t)).topic("T", 1)
	cl.end(t, "n1")
	cl.cfg.SlaveTimeout, cl.cfg.SyncFlushTimeout = Duration(time.Millisecond), Duration(time.Millisecond)
	cl.mustStart(t, "n1")
	c := dial(t, cl.leader(t))
	body, uniq := strings.Repeat("x", 4<<20), ""
	n := 0
	eventually(t, "a write of 4 MiB that takes more than a millisecond", func() bool {
		n++
		uniq = fmt.Sprint(n)
		r, err := c.send(message("T", 0, remoting.PropUniqKey, uniq), body)
		if codeOf(err) == remoting.FlushDiskTimeout && (r.QueueOffset != -1 || len(r.MsgID) != 32) {
			t.Errorf("answered with %+v", r)
		}
		return codeOf(err) == remoting.FlushDiskTimeout
	})
	eventually(t, "the message", func() bool {
		got := c.all("T", 0)
		times := 0
		for _, v := range got {
			if v.Properties().Get(remoting.PropUniqKey) == uniq {
				times++
			}
		}
		if times > 1 {
			t.Errorf("it is there %d times", times)
		}
		return times > 0
	})
}

// A replica of a group of one is its own quorum; only if it is to have a slave is
// that said.
func TestSlaveNotAvailableInAGroupOfOne(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, func(c *Config) { c.BrokerRole = "SYNC_MASTER" })
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	r, err := c.send(message("T", 0), "m")
	wantCode(t, err, remoting.SlaveNotAvailable)
	if got := c.all("T", 0); len(got) != 1 || r.QueueOffset != 0 || got[0].OffsetMsgID() != r.MsgID {
		t.Errorf("%d messages; the answer says %+v", len(got), r)
	}
}

// A full disk refuses writes, and goes on with reads.
func TestSTORE07FullDiskRefusesSends(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	c.mustSend(message("T", 0, remoting.PropUniqKey, "u"), "m")
	phys := c.all("T", 0)[0].PhysicalOffset()

	// By the ratio: diskSpaceWarningLevelRatio.
	b.leading.retain.full.Store(true)
	_, err := c.send(message("T", 0), "refused")
	wantCode(t, err, remoting.ServiceNotAvailable)
	c.group("g")
	_, err = c.ask(remoting.ConsumerSendMsgBack, &remoting.SendBackRequest{Group: "g", Offset: phys, MaxReconsumeTimes: -1})
	wantCode(t, err, remoting.ServiceNotAvailable)
	if got := c.all("T", 0); len(got) != 1 {
		t.Errorf("%d messages can be pulled", len(got))
	}
	b.leading.retain.full.Store(false)
	c.mustSend(message("T", 0), "taken again")
}

// By what is left: diskReserve. The disk is filled with a file's worth of blocks
// and nothing but that file.
func TestSTORE08DiskReserveRefusesSendsUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	const margin = 1 << 30
	usage, err := disk.OS().Usage(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if usage.Free < 4*margin {
		t.Skipf("only %d bytes of disk are free", usage.Free)
	}
	cl := startCluster(t, 1, func(c *Config) { c.DiskReserve = ByteSize(usage.Free - margin) })
	b := cl.leader(t)
	term := b.group.Leadership().Term
	c := dial(t, b)
	c.topic("T", 1)
	c.group("g")
	c.mustSend(message("T", 0), "m")

	filler, err := os.Create(filepath.Join(t.TempDir(), "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close() // it is removed with its directory
	var size int64
	eventually(t, "an answer of a disk without room", func() bool {
		size += margin / 4
		if err := unix.Fallocate(int(filler.Fd()), 0, 0, size); err != nil {
			t.Skip("the file system can't fallocate: ", err)
		}
		_, err := c.send(message("T", 0), "refused")
		if err != nil {
			wantCode(t, err, remoting.ServiceNotAvailable)
		}
		return err != nil
	})
	before := len(c.all("T", 0)) // reads go on
	if _, err := c.send(message("T", 0), "refused"); err == nil {
		t.Error("a full disk takes a message")
	}
	// What else consumers and tools send is refused as well, and deposes nobody;
	// but what makes room goes through.
	wantCode(t, c.commit("g", "T", 0, 1), remoting.ServiceNotAvailable)
	topic := ownTopic("U", 1)
	_, err = c.ask(remoting.UpdateAndCreateTopic, &topic)
	wantCode(t, err, remoting.ServiceNotAvailable)
	if _, err := c.offset("g", "T", 0); err != nil {
		t.Errorf("a committed offset can't be read: %v", err)
	}
	if _, err := b.group.Trim(t.Context(), 0); err != nil {
		t.Errorf("a trim is refused: %v", err)
	}
	if now := b.group.Leadership(); now.Term != term || !now.Self {
		t.Errorf("a full disk has cost the leader its term %d: %+v", term, now)
	}
	if err := filler.Truncate(0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "room again", func() bool {
		_, err := c.send(message("T", 0), "taken again")
		return err == nil
	})
	if got := bodiesOf(c.all("T", 0)); len(got) != before+1 || got[before] != "taken again" {
		t.Errorf("%d messages, then %q", before, got)
	}
}

// What raftgroup and the state machine end a send with, and what the client is
// told of it: the table in outcome.go.
func TestOutcomesOfSends(t *testing.T) {
	t.Parallel()
	b := shared(t)
	other := errors.Join(raftgroup.ErrUnknown, errors.New("raft is shutting down"))
	for _, x := range []struct {
		err     error
		status  fsm.Status
		code    int32
		unknown bool
	}{
		{nil, fsm.Stored, remoting.Success, false},
		{nil, fsm.Repeated, remoting.Success, false},
		{raftgroup.ErrQuorumTimeout, 0, remoting.FlushSlaveTimeout, true},
		{raftgroup.ErrLeadershipLost, 0, remoting.FlushSlaveTimeout, true},
		{raftgroup.ErrFlushTimeout, 0, remoting.FlushDiskTimeout, true},
		{other, 0, remoting.FlushSlaveTimeout, true},
		{raftgroup.ErrNotLeader, 0, remoting.ServiceNotAvailable, false},
		{raftgroup.ErrClosed, 0, remoting.ServiceNotAvailable, false},
		{fmt.Errorf("%w: %w", raftgroup.ErrClosed, errors.New("the disk has failed")), 0, remoting.ServiceNotAvailable, false},
		{raftgroup.ErrNoRoom, 0, remoting.ServiceNotAvailable, false},
		{raftgroup.ErrBusy, 0, remoting.SystemBusy, false},
		{raftgroup.ErrTooLarge, 0, remoting.MessageIllegal, false},
		{nil, fsm.NoTopic, remoting.TopicNotExist, false},
		{nil, fsm.BadQueue, remoting.InvalidParameter, false},
		{nil, fsm.TooLarge, remoting.MessageIllegal, false},
		{nil, fsm.NotConfigured, remoting.SystemError, false},
	} {
		t.Run(fmt.Sprint(x.err, " ", x.status), func(t *testing.T) {
			resp := answerOf(t, b, func(op *sendOp) { op.Done(fsm.Result{Status: x.status, StoreHost: b.storeHost}, x.err) })
			if resp.Code != x.code {
				t.Errorf("code %d, want %d: %s", resp.Code, x.code, resp.Remark)
			}
			info := remoting.ResponseInfoOf(resp.Code)
			if (resp.Ext.Get(extOutcome) == "unknown") != x.unknown || x.unknown && (info.Retriable || !info.Stored) {
				t.Errorf("%v (%s) for an outcome whose being unknown is %v", resp.Ext, info.Name, x.unknown)
			}
			if info.Stored && resp.Ext.Get("queueOffset") == "" {
				t.Error("stock clients miss queueOffset")
			}
		})
	}
}

// answerOf has a send answered by f, and returns what the client gets.
func answerOf(t *testing.T, b *Broker, f func(*sendOp)) *remoting.Command {
	t.Helper()
	here, there := net.Pipe()
	server := remoting.NewConn(here, remoting.ConnConfig{}, remoting.HandlerFunc(func(c *remoting.Conn, req *remoting.Command) {
		f(&sendOp{b: b, s: &session{conn: c}, responder: req.Responder(), started: time.Now()})
	}))
	defer server.Close()
	client := &testClient{t: t, conn: remoting.NewConn(there, remoting.ConnConfig{}, nil)}
	defer client.conn.Close()
	resp, _ := client.call(&remoting.Command{Code: remoting.SendMessageV2})
	return resp
}

// SEND-19: whatever is wrong with a send, its code is one that clients' rules for
// repeating are made for.
func TestSEND19CodesOfRefusals(t *testing.T) {
	t.Parallel()
	b := shared(t)
	c := dial(t, b)
	topic := named(t)
	c.topic(topic, 1)
	allowed := []int32{1, 2, 13, 14, 16, 17, 26, 29}
	for what, req := range map[string]*remoting.Command{
		"no header":           {Code: remoting.SendMessageV2},
		"a header of letters": {Code: remoting.SendMessageV2, Ext: remoting.Fields{{Key: "b", Value: topic}, {Key: "e", Value: "x"}}},
		"no topic":            {Code: remoting.SendMessage, Header: message("", 0)},
		"bad name":            {Code: remoting.SendMessage, Header: message("a b", 0)},
		"bad queue":           {Code: remoting.SendMessageV2, Header: message(topic, 7)},
		"protected":           {Code: remoting.SendMessageV2, Header: message(remoting.TopicSchedule, 0)},
		"empty batch":         {Code: remoting.SendBatchMessage, Header: message(topic, 0)},
		"retry of a bad name": {Code: remoting.SendMessageV2, Header: message("%RETRY%"+strings.Repeat("x", 200), 0)},
		"retry of nobody":     {Code: remoting.SendMessageV2, Header: message("%RETRY%", 0)},
		"negative tries": {Code: remoting.SendMessageV2, Header: func() *remoting.SendHeader {
			h := message(topic, 0)
			h.ReconsumeTimes = -1
			return h
		}()},
	} {
		if _, err := c.call(req); !slices.Contains(allowed, codeOf(err)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := c.all(topic, 0); len(got) != 0 {
		t.Errorf("stored: %q", bodiesOf(got))
	}
}
