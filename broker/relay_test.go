package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// alone has replicas refuse what they do not lead for.
func alone(c *Config) {
	no := false
	c.ForwardToLeader = &no
}

// Without forwarding, a replica that does not lead refuses with a code that stock
// clients repeat, on another group if there is one, and names the leader to
// clients that understand.
func TestHA11ReplicaThatDoesNotLead(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, alone)
	old := cl.leader(t)
	dial(t, old).topic("T", 1)
	leader := cl.transfer(t)
	eventually(t, "the old leader knows the new one", func() bool { return old.group.Leadership().Address == leader.addr.String() })
	resp, err := dial(t, old).call(&remoting.Command{Code: remoting.SendMessageV2, Header: message("T", 0), Body: []byte("m")})
	wantCode(t, err, remoting.ServiceNotAvailable)
	if !slices.Contains([]int32{1, 14, 16, 17}, codeOf(err)) || resp.Ext.Get(extLeader) != leader.addr.String() {
		t.Errorf("code %d, leader %q", codeOf(err), resp.Ext.Get(extLeader))
	}
	if got := dial(t, leader).all("T", 0); len(got) != 0 {
		t.Errorf("a refused message is there")
	}
}

// With it, clients of the old leader go on as if it led.
func TestHA11AndSEND15FollowersPassOn(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	leader := cl.leader(t)
	follower := cl.followers(t)[0]
	c := dial(t, follower)
	c.topic("T", 2)
	c.group("g")
	resp, err := c.call(&remoting.Command{Code: remoting.SendMessageV2, Header: message("T", 1, remoting.PropUniqKey, "U", remoting.PropTags, "x"), Body: []byte("m")})
	if err != nil {
		t.Fatal(err)
	}
	var r remoting.SendResponse
	if err := r.Decode(resp); err != nil || r.QueueID != 1 || r.QueueOffset != 0 || resp.Ext.Get(extLeader) != leader.addr.String() {
		t.Errorf("%+v, %v; the leader is %q", r, err, resp.Ext.Get(extLeader))
	}
	got := dial(t, leader).all("T", 1)
	if len(got) != 1 || got[0].OffsetMsgID() != r.MsgID || got[0].StoreHost() != leader.addr {
		t.Fatalf("%d messages, id %s", len(got), r.MsgID)
	}
	// The client's, not the follower's.
	if want := addrPort(c.conn.LocalAddr()); got[0].BornHost() != want {
		t.Errorf("born at %v, want %v", got[0].BornHost(), want)
	}
	if err := c.commit("g", "T", 1, 1); err != nil {
		t.Error(err)
	}
	if at, err := c.offset("g", "T", 1); err != nil || at != 1 {
		t.Errorf("the group is at %d, %v", at, err)
	}
	// One-way sends come in their order.
	var want []string
	for i := range 50 {
		body := fmt.Sprint(i)
		if err := c.conn.Notify(&remoting.Command{Code: remoting.SendMessageV2, Header: message("T", 0, remoting.PropUniqKey, body), Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
		want = append(want, body)
	}
	eventually(t, "the one-way sends", func() bool { return len(dial(t, leader).all("T", 0)) >= len(want) })
	if got := bodiesOf(dial(t, leader).all("T", 0)); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	// What is refused is refused as by the leader.
	_, err = c.send(message("T", 9), "m")
	wantCode(t, err, remoting.InvalidParameter)
	// Nobody passes on what was passed on. (R1)
	_, err = c.call(&remoting.Command{Code: remoting.SendMessageV2, Header: message("T", 0), Ext: remoting.Fields{{Key: extFrom, Value: "1.2.3.4:5 6"}}, Body: []byte("m")})
	wantCode(t, err, remoting.ServiceNotAvailable)
}

// What is sent again on purpose is told from what a client repeats, and one
// client's messages from another's, as if they had come straight. (R3)
func TestSEND22RepeatsThatArePassedOn(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	leader := cl.leader(t)
	follower := cl.followers(t)[0]
	one, other := dial(t, follower), dial(t, follower)
	one.topic("T", 1)
	h := message("T", 0, remoting.PropUniqKey, "U")
	one.mustSend(h, "first")
	one.mustSend(h, "on purpose")
	if r := other.mustSend(h, "by another connection"); r.QueueOffset != 1 {
		t.Errorf("answered with offset %d", r.QueueOffset)
	}
	if got := bodiesOf(dial(t, leader).all("T", 0)); !slices.Equal(got, []string{"first", "on purpose"}) {
		t.Errorf("%q", got)
	}
}

// A client that knows one replica only sends through changes of the leader, one
// of which is a crash. Each of its messages is there once, in order.
func TestSEND22AndHA11SendsThroughOneReplica(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	leader := cl.leader(t)
	followers := cl.followers(t)
	c := dial(t, followers[0])
	c.topic("T", 1)
	stop, answered := make(chan struct{}), make(chan struct{}, 1)
	var sender sync.WaitGroup
	sent, unknown := 0, 0
	sender.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			body := fmt.Sprint(sent)
			r, err := c.send(message("T", 0, remoting.PropUniqKey, body), body)
			switch {
			case err == nil && r.QueueOffset == int64(sent):
				sent++
			case err == nil:
				t.Errorf("message %d has offset %d", sent, r.QueueOffset)
				return
			case codeOf(err) == remoting.FlushSlaveTimeout:
				unknown++ // asked again under its key
			case codeOf(err) == remoting.ServiceNotAvailable, strings.Contains(fmt.Sprint(err), "time"):
			default:
				t.Errorf("message %d: %v", sent, err)
				return
			}
			select {
			case answered <- struct{}{}:
			default:
			}
		}
	})
	more := func() {
		for range 20 {
			select {
			case <-answered:
			case <-time.After(20 * time.Second):
				t.Error("no answers any more")
				return
			}
		}
	}
	more()
	cl.transfer(t)
	more()
	if now := cl.leader(t); now != followers[0] {
		cl.end(t, now.cfg.NodeID)
	} else {
		cl.end(t, leader.cfg.NodeID)
	}
	cl.leader(t)
	more()
	close(stop)
	sender.Wait()
	got := bodiesOf(dial(t, cl.leader(t)).all("T", 0))
	if len(got) < sent || len(got) > sent+1 {
		t.Errorf("%d sent, %d there", sent, len(got))
	}
	for i, body := range got {
		if body != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, body)
		}
	}
	t.Logf("%d sent, %d times not known at first", sent, unknown)
}

// While there is no leader a request is held for a moment, and then refused: it
// was not stored.
func TestHA11NoLeader(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	leader := cl.leader(t)
	followers := cl.followers(t)
	c := dial(t, followers[0])
	c.topic("T", 1)
	cl.end(t, leader.cfg.NodeID, followers[1].cfg.NodeID)
	eventually(t, "a refusal", func() bool {
		_, err := c.send(message("T", 0, remoting.PropUniqKey, "U"), "m")
		return codeOf(err) == remoting.ServiceNotAvailable
	})
	cl.mustStart(t, leader.cfg.NodeID)
	if got := dial(t, cl.leader(t)).all("T", 0); len(got) > 1 {
		t.Errorf("%d messages", len(got))
	}
}

// A replica that has come back knows no consumers. Stock ones go on to pull from
// it, and beat no earlier than they would have: it asks the others what they
// want.
func TestPULL09AndHA11ReplicaThatHasForgottenTheGroup(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	leader := cl.leader(t)
	followers := cl.followers(t)
	c := dial(t, leader)
	c.topic("T", 1)
	for _, tag := range []string{"A", "B"} {
		c.mustSend(message("T", 0, remoting.PropTags, tag), tag)
	}
	cl.caughtUp(t)
	c.beat("one", consumer("g", "T", "B"))
	cl.caughtUp(t) // the group
	f := dial(t, followers[0])
	wanted := pullOf("T", 0, 0, registered("g", 0))
	if p := f.pull(wanted); p.err != nil || !slices.Equal(p.bodies(), []string{"B"}) {
		t.Errorf("%q, %v", p.bodies(), p.err)
	}
	// Its own heartbeat is what counts as soon as there is one.
	f.beat("one", consumer("g", "T", "A"))
	if p := f.pull(wanted); p.err != nil || !slices.Equal(p.bodies(), []string{"A"}) {
		t.Errorf("after a heartbeat: %q, %v", p.bodies(), p.err)
	}
	// What nobody knows is not there.
	wantCode(t, f.pull(pullOf("T", 0, 0, registered("CID_ONSAPI_PULL", 0))).err, remoting.SubscriptionNotExist)
}

// A header that has room in a frame of the client's encoding, and none in one between
// replicas, is refused at once.
func TestHeaderTooLargeToBePassedOn(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	c := dialWith(t, cl.followers(t)[0].addr.String(), remoting.ConnConfig{Serialize: remoting.Binary})
	h := message("T", 0)
	h.Properties = strings.Repeat("\x01", 4<<20)
	_, err := c.send(h, "m")
	wantCode(t, err, remoting.MessageIllegal)
}

// One-way requests come in their order also while the replica has no connection to
// the leader yet: stock clients commit offsets that way. (R4)
func TestFirstOnewayRequestsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	leader := dial(t, cl.leader(t))
	leader.topic("T", 1)
	leader.group("g")
	cl.caughtUp(t)
	c := dial(t, cl.followers(t)[0])
	notify := func(req *remoting.Command) {
		t.Helper()
		if err := c.conn.Notify(req); err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	const n = 200
	for i := range n {
		want = append(want, fmt.Sprint(i))
		notify(&remoting.Command{Code: remoting.UpdateConsumerOffset, Header: &remoting.UpdateConsumerOffsetRequest{
			ConsumerGroup: "g", Topic: "T", QueueID: 0, CommitOffset: int64(i),
		}})
		notify(&remoting.Command{Code: remoting.SendMessageV2, Header: message("T", 0), Body: []byte(want[i])})
	}
	if got := bodiesOf(leader.arrived("T", 0, n)); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	// The last send came behind all commits.
	if at, err := leader.offset("g", "T", 0); err != nil || at != n-1 {
		t.Errorf("the group is at %d, %v", at, err)
	}
}

// A send that was passed on, and of which nobody knows whether it was stored, is
// asked about again under its key. If that is refused, by the leader or by this
// replica once it leads, the first one may be stored nevertheless: a client that is
// told that it was not would send it to another group. (R2)
func TestSEND22RefusalAfterLimboIsUnknown(t *testing.T) {
	t.Parallel()
	for _, leads := range []bool{false, true} {
		cl := startCluster(t, 3, nil)
		leader, follower := cl.leader(t), cl.followers(t)[0]
		dial(t, leader).topic("T", 1)
		cl.caughtUp(t)
		// One that takes a request and is gone.
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		var gone sync.WaitGroup
		gone.Go(func() {
			conn, err := l.Accept()
			if err == nil {
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil && leads {
				err = leader.group.TransferLeadership(t.Context(), follower.cfg.NodeID)
			}
			if err == nil && leads {
				err = until("the replica leads", follower.leads)
			}
			if err = errors.Join(err, conn.Close(), l.Close()); err != nil {
				t.Error(err)
			}
		})
		follower.links.mu.Lock()
		if follower.links.byAddr == nil {
			follower.links.byAddr = map[string]*link{}
		}
		follower.links.byAddr[leader.addr.String()] = &link{dialing: make(chan struct{}, 1), conn: remoting.NewConn(nc, remoting.ConnConfig{}, nil)}
		follower.links.mu.Unlock()
		resp, err := dial(t, follower).call(&remoting.Command{Code: remoting.SendMessageV2, Header: message("T", 9, remoting.PropUniqKey, "U"), Body: []byte("m")})
		wantCode(t, err, remoting.FlushSlaveTimeout)
		if resp != nil && resp.Ext.Get(extOutcome) != "unknown" {
			t.Errorf("leads %v: the outcome is %q", leads, resp.Ext.Get(extOutcome))
		}
		gone.Wait()
	}
}

// What a leader that is closing does not take any more is not refused for that: the
// replica that has passed it on goes on, as its client would have no other answer
// from the next leader.
func TestHA11LeaderThatIsClosing(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	leader, follower := cl.leader(t), cl.followers(t)[0]
	c := dial(t, follower)
	c.topic("T", 1)
	for i, version := range []int32{317, remoting.VersionGoAway + 1} {
		here, err := follower.links.get(t.Context(), leader.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		// Something in flight keeps the leader's end of it open while it drains.
		if err := here.CallAsync(&remoting.Command{Code: remoting.PullMessage, Header: pullOf("T", 0, int64(i), held(time.Minute))}, 0, func(*remoting.Command, error) {}); err != nil {
			t.Fatal(err)
		}
		var there *remoting.Conn
		eventually(t, "a held pull", func() bool {
			leader.holds.mu.Lock()
			defer leader.holds.mu.Unlock()
			for s := range leader.holds.byConn {
				if s.addr == addrPort(here.LocalAddr()) {
					there = s.conn
				}
			}
			return there != nil
		})
		ctx, closeNow := context.WithCancel(t.Context())
		drained := make(chan error, 1)
		go func() { drained <- there.Drain(ctx) }()
		eventually(t, "a refusal", func() bool {
			resp, err := here.Call(t.Context(), &remoting.Command{Code: remoting.GetBrokerConfig})
			return err == nil && resp.Ext.Get(extNotLeading) != ""
		})
		answered := make(chan error, 1)
		go func() {
			_, err := c.call(&remoting.Command{Version: version, Code: remoting.SendMessageV2, Header: message("T", 0, remoting.PropUniqKey, fmt.Sprint(i)), Body: []byte("m")})
			answered <- err
		}()
		select {
		case err := <-answered:
			t.Errorf("version %d: answered by a leader that closes: %v", version, err)
			answered <- err
		case <-time.After(5 * relayPause): // it is tried again and again
		}
		closeNow()
		<-drained
		if err := <-answered; err != nil {
			t.Errorf("version %d: %v", version, err)
		}
	}
	if got := dial(t, leader).all("T", 0); len(got) != 2 {
		t.Errorf("%d messages, want 2", len(got))
	}
}
