package client

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// TestSendElsewhere: what a group has definitely not stored goes to another one, and is stored once.
func TestSendElsewhere(t *testing.T) {
	for name, s := range map[string]script{
		"not leading": answerWith(remoting.ServiceNotAvailable), "busy": answerWith(remoting.SystemBusy), "failed": answerWith(remoting.SystemError),
		"no permission": answerWith(remoting.NoPermission), "no topic": answerWith(remoting.TopicNotExist), "going away": answerWith(remoting.GoAway),
	} {
		for _, stay := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/stay=%v", name, stay), func(t *testing.T) {
				bubble(t, 2, 1, func(t *testing.T, c *cluster) {
					c.topic("T", 1)
					p := c.producer(ProducerConfig{StayInGroup: stay})
					for _, g := range c.groups {
						g.replicas[0].next(remoting.SendMessageV2, s)
					}
					// Both groups refuse their first: the first send is refused by one, and then by the other unless it stays.
					res, err := p.Send(t.Context(), &Message{Topic: "T"})
					a, _ := c.groups[0].count()
					b, _ := c.groups[1].count()
					refused := s.answer.Code == remoting.NoPermission || s.answer.Code == remoting.TopicNotExist
					switch {
					case stay && refused:
						if err == nil || kind(t, err) != ErrRejected || a+b != 0 {
							t.Errorf("%v, %d stored", err, a+b)
						}
					case err != nil:
						t.Error(err)
					case a+b != 1 || stay && res.Attempts != 2 || !stay && res.Attempts != 3:
						t.Errorf("%d stored, %d attempts", a+b, res.Attempts)
					}
				})
			})
		}
	}
}

// TestLimboStaysInGroup: a send whose answer is lost is asked about in its group, where it is stored once, and never sent to another one.
func TestLimboStaysInGroup(t *testing.T) {
	for name, s := range map[string]script{"closed before": {dropBefore: true}, "closed after": {dropAfter: true}, "silent": {silent: true}, "deaf": {deaf: true}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, 3, func(t *testing.T, c *cluster) {
				c.topic("T", 1)
				p := c.producer(ProducerConfig{})
				for _, g := range c.groups {
					g.replicas[0].next(remoting.SendMessageV2, s)
					for _, r := range g.replicas {
						r.hint = true
					}
				}
				for i := range 2 { // one for each group
					res := mustSend(t, p, &Message{Topic: "T"})
					if res.Attempts < 2 {
						t.Errorf("send %d: %d attempts", i, res.Attempts)
					}
				}
				for _, g := range c.groups {
					stored, repeats := g.count()
					want := 0
					if s.dropAfter || s.silent {
						want = 1
					}
					if stored != 1 || repeats != want {
						t.Errorf("%s: %d stored, %d repeats, want 1 and %d", g.name, stored, repeats, want)
					}
				}
			})
		})
	}
}

// TestLimboGroupGone: when the whole group is gone after the answer was lost, the outcome is limbo and no other group gets the message,
// unless that was asked for.
func TestLimboGroupGone(t *testing.T) {
	for _, leave := range []bool{false, true} {
		t.Run(fmt.Sprintf("leave=%v", leave), func(t *testing.T) {
			bubble(t, 2, 3, func(t *testing.T, c *cluster) {
				c.topic("T", 1)
				p := c.producer(ProducerConfig{LeaveInLimbo: leave})
				m := &Message{Topic: "T"}
				queue := MessageQueue{Topic: "T", BrokerName: "broker-a"}
				c.groups[0].replicas[0].next(remoting.SendMessageV2, script{dropAfter: true, then: func() {
					for _, r := range c.groups[0].replicas[1:] {
						r.stop()
					}
					go c.groups[0].replicas[0].stop() // which waits for this handler
				}})
				// Choose group a: b is avoided.
				if _, err := p.Queues(t.Context(), "T"); err != nil {
					t.Fatal(err)
				}
				p.c.group("broker-b").failed()
				begun := time.Now()
				res, err := p.Send(t.Context(), m)
				b, _ := c.groups[1].count()
				if leave {
					if err != nil || res.Queue.BrokerName != "broker-b" || b != 1 {
						t.Errorf("%+v, %v, %d stored in b", res, err, b)
					}
					return
				}
				if err == nil || kind(t, err) != ErrLimbo || b != 0 {
					t.Errorf("%+v, %v, %d stored in b", res, err, b)
				}
				if took := time.Since(begun); took != 3*time.Second {
					t.Errorf("gave up after %v, want the timeout of 3 s", took)
				}
				// The group comes back: sending the message again finds it stored.
				for _, r := range c.groups[0].replicas {
					r.start()
				}
				if res, err = p.Send(t.Context(), m); err != nil || res.Queue != queue {
					t.Errorf("again: %+v, %v", res, err)
				}
				if stored, repeats := c.groups[0].count(); stored != 1 || repeats != 1 {
					t.Errorf("%d stored, %d repeats", stored, repeats)
				}
			})
		})
	}
}

// TestOutcomeUnknown: a broker that says it does not know yet is asked until it does, or time is up.
func TestOutcomeUnknown(t *testing.T) {
	for _, retries := range []int{NoRetries, 2} {
		bubble(t, 1, 3, func(t *testing.T, c *cluster) {
			c.topic("T", 1)
			p := c.producer(ProducerConfig{Retries: retries})
			dunno := storedWith(remoting.FlushSlaveTimeout, extOutcome, "unknown")
			c.groups[0].replicas[0].next(remoting.SendMessageV2, dunno, dunno, dunno, dunno)
			res := mustSend(t, p, &Message{Topic: "T"})
			if res.Status != SendOK || res.Attempts != 5 || res.QueueOffset != 0 {
				t.Errorf("%+v", res)
			}
			if stored, repeats := c.groups[0].count(); stored != 1 || repeats != 4 {
				t.Errorf("%d stored, %d repeats", stored, repeats)
			}
			always := storedWith(remoting.FlushDiskTimeout, extOutcome, "unknown")
			for _, r := range c.groups[0].replicas {
				r.g.mu.Lock()
				r.always = func(req *remoting.Command) *script {
					if req.Code == remoting.SendMessageV2 {
						return &always
					}
					return nil
				}
				r.g.mu.Unlock()
			}
			begun := time.Now()
			_, err := p.Send(t.Context(), &Message{Topic: "T"})
			if kind(t, err) != ErrLimbo || !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 3*time.Second {
				t.Errorf("%v after %v", err, time.Since(begun))
			}
		})
	}
}

// TestLeaderMoves: after a leader has died the sends go on with the new one within a few milliseconds of its election, whatever the route
// says, and each is stored once.
func TestLeaderMoves(t *testing.T) {
	for _, row := range []struct {
		name          string
		hint, forward bool
	}{{"hints", true, false}, {"no hints", false, false}, {"forwarding", false, true}} {
		t.Run(row.name, func(t *testing.T) {
			bubble(t, 1, 3, func(t *testing.T, c *cluster) {
				c.topic("T", 1)
				g := c.groups[0]
				for _, r := range g.replicas {
					r.hint, r.forward = row.hint, row.forward
				}
				p := c.producer(ProducerConfig{})
				mustSend(t, p, &Message{Topic: "T"})
				var gap time.Duration
				const election = 60 * time.Millisecond
				for i := range 20 {
					if i == 10 {
						g.replicas[0].next(remoting.SendMessageV2, script{dropAfter: true, then: func() {
							g.elect(-1, false)
							go g.replicas[0].stop()
							c.later(election, func() { g.elect(2, false) })
						}})
					}
					begun := time.Now()
					mustSend(t, p, &Message{Topic: "T"})
					gap = max(gap, time.Since(begun))
				}
				if gap < election || gap > election+2*maxPause {
					t.Errorf("longest send %v, election %v", gap, election)
				}
				stored, repeats := g.count()
				if stored != 21 || repeats > 1 {
					t.Errorf("%d stored, %d repeats", stored, repeats)
				}
				if l := p.c.group("broker-a").leader.Load(); l.addr != g.replicas[2].addr && !row.forward {
					t.Errorf("leader %s", l.addr)
				}
			})
		})
	}
}

// TestRedirectedBack: a replica that was asked before it was elected is asked again at once when another one names it.
func TestRedirectedBack(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		g.replicas[2].hint = true
		p := c.producer(ProducerConfig{})
		mustSend(t, p, &Message{Topic: "T"})
		g.elect(1, false)
		g.replicas[1].next(remoting.SendMessageV2, answerWith(remoting.ServiceNotAvailable))
		begun := time.Now()
		res := mustSend(t, p, &Message{Topic: "T"})
		if took := time.Since(begun); took > 0 || res.Attempts != 4 {
			t.Errorf("%d attempts, %v", res.Attempts, took)
		}
	})
}

// TestContradiction: replicas that name each other as leader do not send us round for ever.
func TestContradiction(t *testing.T) {
	bubble(t, 1, 2, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		for i, r := range g.replicas {
			other := g.replicas[1-i].addr
			r.always = func(req *remoting.Command) *script {
				if req.Code != remoting.SendMessageV2 {
					return nil
				}
				s := answerWith(remoting.ServiceNotAvailable, extLeader, other)
				return &s
			}
		}
		p := c.producer(ProducerConfig{})
		_, err := p.Send(t.Context(), &Message{Topic: "T"})
		if kind(t, err) != ErrRejected {
			t.Error(err)
		}
		n := g.replicas[0].requests(remoting.SendMessageV2) + g.replicas[1].requests(remoting.SendMessageV2)
		if n > int(3*time.Second/(maxPause/2))*(2+maxRedirects) {
			t.Errorf("%d requests in 3 s", n)
		}
	})
}

// TestBlackHole: an address that swallows connections, and a leader that stops answering, cost a part of the time only.
func TestBlackHole(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		p := c.producer(ProducerConfig{})
		mustSend(t, p, &Message{Topic: "T"})
		old := g.replicas[0]
		old.always = func(req *remoting.Command) *script { return &script{deaf: true} } // not a word any more
		c.net.(*pipes).hole(old.addr, true)
		g.elect(1, true)
		begun := time.Now()
		mustSend(t, p, &Message{Topic: "T"})
		if took := time.Since(begun); took > 1600*time.Millisecond {
			t.Errorf("the first send took %v", took)
		}
		begun = time.Now()
		for range 5 {
			mustSend(t, p, &Message{Topic: "T"})
		}
		if took := time.Since(begun); took > 0 {
			t.Errorf("further sends took %v", took)
		}
		pass(10 * time.Second)
		if p.c.peer(old.addr).conn.Load() != nil {
			t.Error("the connection to the peer that does not answer is still open")
		}
	})
}

// TestSilentLeader: a leader that stops answering is left as soon as the others say that they have another one: its host is lost. What it
// may have stored is not stored again.
func TestSilentLeader(t *testing.T) {
	for _, async := range []bool{false, true} {
		t.Run(fmt.Sprintf("async=%v", async), func(t *testing.T) {
			bubble(t, 1, 3, func(t *testing.T, c *cluster) {
				c.topic("T", 1)
				g := c.groups[0]
				g.term = 1
				p := c.producer(ProducerConfig{})
				mustSend(t, p, &Message{Topic: "T"})
				g.replicas[0].always = func(req *remoting.Command) *script { return &script{silent: true} }
				c.later(600*time.Millisecond, func() { g.elect(1, false) })
				begun := time.Now()
				done := make(chan error, 1)
				p.SendAsync(t.Context(), &Message{Topic: "T"}, func(_ *SendResult, err error) { done <- err })
				if !async {
					mustSend(t, p, &Message{Topic: "T"})
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
				if took := time.Since(begun); took < 600*time.Millisecond || took > 800*time.Millisecond {
					t.Errorf("the sends took %v, with an election after 600 ms", took)
				}
				want := 2
				if !async {
					want = 3
				}
				if stored, repeats := g.count(); stored != want || repeats != want-1 {
					t.Errorf("%d stored, %d repeats", stored, repeats)
				}
			})
		})
	}
}

// TestSlowLeader: a leader that takes its time is waited for, though the others are asked.
func TestSlowLeader(t *testing.T) {
	bubble(t, 1, 3, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		g := c.groups[0]
		g.term = 1
		p := c.producer(ProducerConfig{})
		mustSend(t, p, &Message{Topic: "T"})
		conn := p.c.peer(g.replicas[0].addr).conn.Load()
		g.replicas[0].next(remoting.SendMessageV2, script{delay: 1400 * time.Millisecond})
		if res := mustSend(t, p, &Message{Topic: "T"}); res.Attempts != 1 {
			t.Errorf("%d attempts", res.Attempts)
		}
		if g.replicas[1].requests(remoting.RaftStatusRequest) == 0 || g.replicas[2].requests(remoting.RaftStatusRequest) == 0 {
			t.Error("nobody was asked who leads")
		}
		if p.c.peer(g.replicas[0].addr).conn.Load() != conn {
			t.Error("the connection was ended")
		}
		pass(0)
		asked := g.replicas[1].requests(remoting.RaftStatusRequest)
		pass(10 * time.Second)
		if g.replicas[1].requests(remoting.RaftStatusRequest) != asked || p.c.peer(g.replicas[0].addr).watched.Load() {
			t.Errorf("nothing is sent, and it is still looked whether answers come: %d questions, then %d", asked, g.replicas[1].requests(remoting.RaftStatusRequest))
		}
	})
}
