package raftgroup

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// world is a history and the replicas that belong to it.
type world struct {
	h        *history
	q        queueName
	replicas map[string]replica
}

// rightWorld is a history without fault: three sends in turn, of which the second
// was of two messages and tried twice, one refused, one in limbo that was stored.
func rightWorld() *world {
	w := &world{h: &history{}, q: queueName{"T", 0}}
	send := func(key string, kind outcomeKind, offset int64, bodies ...string) *operation {
		op := w.h.begin("T", 0, key, bodies...)
		w.try(op, kind, offset)
		return op
	}
	send("k0", acked, 0, "a")
	op := send("k1", limbo, 0, "b", "c")
	w.try(op, acked, 1)
	send("k2", refused, 0, "no")
	send("k3", limbo, 0, "d")
	send("k4", acked, 4, "e")
	w.replicas = map[string]replica{}
	for _, name := range []string{"n1", "n2", "n3"} {
		var log queueLog
		for i, body := range []string{"a", "b", "c", "d", "e"} {
			log.messages = append(log.messages, queued{body: body, offset: int64(i), phys: int64(100 * i), unit: int64(100 * i)})
		}
		w.replicas[name] = replica{w.q: log}
	}
	w.h.read(reading{"n2", w.q, 1, "b"})
	return w
}

// try records an attempt with its outcome.
func (w *world) try(op *operation, kind outcomeKind, offset int64) {
	a := w.h.invoke(op, "n1")
	switch kind {
	case acked:
		w.h.answer(a, fsm.Result{Status: fsm.Stored, QueueOffset: offset}, nil)
	case refused:
		w.h.answer(a, fsm.Result{}, ErrBusy)
	case limbo:
		w.h.answer(a, fsm.Result{}, ErrQuorumTimeout)
	}
}

// change changes the queue at one replica, or at all.
func (w *world) change(f func(*queueLog), names ...string) {
	for name, r := range w.replicas {
		if len(names) == 0 || slices.Contains(names, name) {
			log := r[w.q]
			log.messages = slices.Clone(log.messages)
			f(&log)
			r[w.q] = log
		}
	}
}

func renumber(log *queueLog) {
	for i := range log.messages {
		m := &log.messages[i]
		m.offset, m.phys, m.unit = int64(i), int64(100*i), int64(100*i)
	}
}

// What the checker is for: each violation that is put in is found, by its name.
func TestCheckerFindsViolations(t *testing.T) {
	if bad := rightWorld().h.check(rightWorld().replicas, true); len(bad) > 0 {
		t.Fatalf("a right history is faulted: %v", bad)
	}
	for _, v := range []struct {
		name, want string
		break_     func(*world)
	}{
		{"the last acknowledged message is gone everywhere", "S1", func(w *world) {
			w.change(func(l *queueLog) { l.messages = l.messages[:4] })
		}},
		{"it is gone on one replica", "S1", func(w *world) {
			w.change(func(l *queueLog) { l.messages = l.messages[:4] }, "n3")
		}},
		{"one in the middle is gone everywhere", "S2", func(w *world) {
			w.change(func(l *queueLog) { l.messages = slices.Delete(l.messages, 1, 2); renumber(l) })
		}},
		{"the second of a batch is gone", "S1", func(w *world) {
			w.change(func(l *queueLog) { l.messages = l.messages[:2] })
		}},
		{"a queue is not there", "S1", func(w *world) { delete(w.replicas["n2"], w.q) }},
		{"what was read is not stored", "S1", func(w *world) { w.h.read(reading{"n2", w.q, 5, "d"}) }},
		{"another message was read at an offset", "S2", func(w *world) { w.h.read(reading{"n2", w.q, 3, "e"}) }},
		{"two acknowledged at one offset", "S2", func(w *world) { w.try(w.h.begin("T", 0, "k9", "f"), acked, 4) }},
		{"two replicas have another message at an offset", "S2", func(w *world) {
			w.change(func(l *queueLog) { l.messages[1].body, l.messages[2].body = "c", "b" }, "n2")
		}},
		{"nobody sent it", "S3", func(w *world) {
			w.change(func(l *queueLog) { l.messages = append(l.messages, queued{body: "ghost"}); renumber(l) })
		}},
		{"it was refused", "S3", func(w *world) {
			w.change(func(l *queueLog) { l.messages = append(l.messages, queued{body: "no"}); renumber(l) })
		}},
		{"it was sent to another queue", "S3", func(w *world) {
			w.h.begin("T", 7, "k9", "f").attempts = []*attempt{{kind: limbo}}
			w.change(func(l *queueLog) { l.messages = append(l.messages, queued{body: "f"}); renumber(l) })
		}},
		{"a record says another offset", "S4", func(w *world) {
			w.change(func(l *queueLog) { l.messages[3].offset = 4 })
		}},
		{"a unit points at another record", "S4", func(w *world) {
			w.change(func(l *queueLog) { l.messages[3].unit = 400 })
		}},
		{"records stand in another order than the queue", "S4", func(w *world) {
			w.change(func(l *queueLog) {
				l.messages[3].phys, l.messages[3].unit, l.messages[4].phys, l.messages[4].unit = 400, 400, 300, 300
			})
		}},
		{"a later send stands before an earlier one", "S4", func(w *world) {
			w.change(func(l *queueLog) { l.messages[0].body, l.messages[3].body = "d2", "a" })
			w.h.ops[0].attempts[0].res.QueueOffset = 3
			w.h.ops[3].bodies[0] = "d2"
			w.h.answer(w.h.ops[3].attempts[0], fsm.Result{Status: fsm.Stored}, nil)
			w.h.ops[0].attempts[0].answered, w.h.ops[3].attempts[0].invoked = 1, 9
		}},
		{"times of a queue go back", "S4", func(w *world) {
			w.change(func(l *queueLog) { l.messages[1].stored = 5 }, "n1", "n2", "n3")
		}},
		{"a send is stored twice", "S5", func(w *world) {
			w.change(func(l *queueLog) { l.messages = append(l.messages, queued{body: "a"}); renumber(l) })
		}},
		{"one replica has less", "S10", func(w *world) {
			w.change(func(l *queueLog) { l.messages = l.messages[:3] }, "n2")
		}},
		{"one replica has another place for a record", "S10", func(w *world) {
			w.change(func(l *queueLog) { l.messages[4].phys, l.messages[4].unit = 500, 500 }, "n2")
		}},
		{"one replica begins later", "S10", func(w *world) {
			w.change(func(l *queueLog) { l.messages, l.first = l.messages[1:], 1 }, "n2")
		}},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := rightWorld()
			v.break_(w)
			bad := w.h.check(w.replicas, true)
			if !slices.ContainsFunc(bad, func(s string) bool { return strings.HasPrefix(s, v.want+":") }) {
				t.Fatalf("%s was not found, only %q", v.want, bad)
			}
		})
	}
}

// What is shown of a violation is what was done with its message.
func TestStoryOfAViolation(t *testing.T) {
	w := rightWorld()
	w.change(func(l *queueLog) { l.messages = append(l.messages, queued{body: "a"}); renumber(l) })
	bad := w.h.check(w.replicas, true)
	if len(bad) == 0 {
		t.Fatal("nothing is wrong")
	}
	story := w.h.story(bad[0], w.replicas)
	if !strings.Contains(story, `"a" was sent to queue 0 of T under key "k0"`) || !strings.Contains(story, "n3 has it at offset 5") || strings.Contains(story, "k1") {
		t.Errorf("the story of %s is\n%s", bad[0], story)
	}
}

// What is right must not be faulted, though it looks odd.
func TestCheckerAllows(t *testing.T) {
	for name, make := range map[string]func(*world){
		"limbo that was not stored": func(w *world) { w.try(w.h.begin("T", 0, "k9", "f"), limbo, 0) },
		"no answer at all":          func(w *world) { w.h.invoke(w.h.begin("T", 0, "k9", "f"), "n1") },
		"a send that was refused, then acknowledged": func(w *world) {
			op := w.h.begin("T", 0, "k9", "f")
			w.try(op, refused, 0)
			w.try(op, acked, 5)
			w.change(func(l *queueLog) { l.messages = append(l.messages, queued{body: "f"}); renumber(l) })
		},
		"a send without a key, stored by each of two attempts": func(w *world) {
			op := w.h.begin("T", 0, "", "f")
			w.try(op, limbo, 0)
			w.try(op, limbo, 0)
			w.change(func(l *queueLog) { l.messages = append(l.messages, queued{body: "f"}, queued{body: "f"}); renumber(l) })
		},
		"all replicas trimmed": func(w *world) {
			w.change(func(l *queueLog) { l.messages, l.first = l.messages[2:], 2 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := rightWorld()
			make(w)
			if bad := w.h.check(w.replicas, true); len(bad) > 0 {
				t.Fatal(bad)
			}
		})
	}
}

// recordingTB takes the errors of a check that should fail.
type recordingTB struct {
	testing.TB
	said []string
}

func (r *recordingTB) Helper()                      {}
func (r *recordingTB) Errorf(f string, args ...any) { r.said = append(r.said, fmt.Sprintf(f, args...)) }
func (r *recordingTB) Error(args ...any)            { r.said = append(r.said, fmt.Sprint(args...)) }

// The checks on a running cluster: a state or a file that differs on one replica,
// and two leaders of a term.
func TestClusterChecksFindViolations(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		for i := range 5 {
			c.deliver("T", 0, fmt.Sprint("m", i))
		}
		c.checkEqual()
		check := func(what string, f func()) {
			t.Helper()
			r := &recordingTB{TB: t}
			c.t = r
			f()
			c.t = t
			if !slices.ContainsFunc(r.said, func(s string) bool { return strings.HasPrefix(s, what) }) {
				t.Errorf("%s was not found, only %q", what, r.said)
			}
		}
		n := c.followers()[0]
		synctest.Wait()
		check("S7", func() {
			l := c.leader().group().Leadership()
			l.Node = n.id
			c.led(l)
		})
		// A byte of a record has changed on a follower's disk.
		flip := func() { flipByte(t, n, "data/store/commitlog/00000000000000000000", 20) }
		flip()
		check("S10", c.compareBytes)
		flip()
		// One follower applies an entry that the others have not: applied behind
		// raft's back, its index is one the others will have, too.
		at := n.group().state.Applied()
		if _, err := n.group().state.Apply([]fsm.Entry{{Index: at + 1, Term: 99, Data: put("X").Data}}); err != nil {
			t.Fatal(err)
		}
		check("S10", c.compareStates)
	})
}

// flipByte changes a byte of a file.
func flipByte(t *testing.T, n *testNode, name string, off int64) {
	t.Helper()
	f, err := n.fs.OpenFile("test", name, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// The whole chain, from the clients to the checker, with disks that lie: they say
// that they have synced the log, and have not. When all lose power, acknowledged
// messages are gone, and that is what must be found.
func TestLostMessagesAreFound(t *testing.T) {
	inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		c.settle()
		for _, n := range c.nodes {
			n.fs.SetHook(func(op disk.Op) error {
				if op.Label == raftlog.LabelAppend && op.Kind == disk.OpSync {
					return disk.ErrPretend
				}
				return nil
			})
		}
		h := &history{}
		cl := newClients(c, h, 4, "T", 1, 1)
		c.wait("a load", func() bool { return h.count() >= floor })
		cl.end()
		for _, n := range c.nodes {
			n.crash(n.now.Load(), func() *disk.Mem { return n.fs.Crash(1) }, true) // all that is unsynced
		}
		c.heal()
		c.settle()
		r := &recordingTB{TB: t}
		c.t = r
		cl.check()
		c.t = t
		if !slices.ContainsFunc(r.said, func(s string) bool { return strings.HasPrefix(s, "S1:") }) {
			t.Fatalf("the loss was not found: %q", r.said)
		}
	})
}
