package broker

import (
	"context"
	"sync"
	"time"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/storage/mutant"
)

const (
	// lockBytes is about what a command that changes locks has at most.
	lockBytes = 128 << 10
	// leaseScan is how soon all locks are looked at again after some have changed.
	leaseScan = time.Second
)

// leases are the leader's clock for queue locks, which are replicated without
// any. A lock is its client's until the lease has run out, which starts when the
// leader first sees the lock and anew with each renewal.
//
//	L1  Leases are of one term. In a new one each lock that is found has a whole
//	    lease, whatever the leader before has seen of it.
//	L2  A renewal only starts the lease anew. It is answered after the call was
//	    followed by proof that this replica still led: an entry of its own was
//	    committed, or a quorum was asked. So the next leader's lease of that lock
//	    starts later than the client's, and no entry is needed.
//	L3  A lease that has run out is not renewed: only an entry does that, and only
//	    if the log has no entry before it that gives the lock away.
type leases struct {
	b    *Broker
	live time.Duration // of a lease

	mu      sync.Mutex
	term    uint64
	changes uint64    // of the locks in the state, when scanned
	scanned time.Time // when
	first   time.Time // no lease runs out before
	groups  map[string]map[queueKey]lease
}

type queueKey struct {
	topic string
	queue int32
}

// lease is how long a lock has been let.
type lease struct {
	renewal uint64 // which lock it is
	start   time.Time
}

func newLeases(b *Broker) *leases {
	return &leases{b: b, live: time.Duration(b.cfg.RebalanceLockMaxLiveTime), groups: map[string]map[queueKey]lease{}}
}

func (l *leases) over(s lease, now time.Time) bool {
	return now.Sub(s.start) >= l.live && !mutant.On("lease")
}

// follow makes the leases those of a term, and once in a while of the locks that
// the state has now. l.mu is held.
func (l *leases) follow(term uint64, now time.Time) {
	state := l.b.group.State()
	changes := state.LockChanges()
	if term == l.term && (changes == l.changes || now.Sub(l.scanned) < leaseScan) {
		return
	}
	old := l.groups
	if term != l.term {
		old = nil // L1
	}
	l.term, l.changes, l.scanned, l.first = term, changes, now, now.Add(l.live)
	l.groups = map[string]map[queueKey]lease{}
	state.QueueLocks(func(q fsm.QueueLock) {
		k := queueKey{q.Topic, q.Queue}
		s := old[q.Group][k]
		if s.renewal != q.Renewal {
			s = lease{q.Renewal, now}
		}
		l.put(q.Group, k, s)
	})
}

func (l *leases) put(group string, k queueKey, s lease) {
	if l.groups[group] == nil {
		l.groups[group] = map[queueKey]lease{}
	}
	l.groups[group][k] = s
	if end := s.start.Add(l.live); end.Before(l.first) {
		l.first = end
	}
}

// of returns the lock of a queue and its lease. l.mu is held.
func (l *leases) of(group string, k queueKey, now time.Time) (fsm.Lock, lease) {
	lock, ok := l.b.group.State().QueueLock(group, k.topic, k.queue)
	if !ok {
		delete(l.groups[group], k)
		return fsm.Lock{}, lease{}
	}
	s := l.groups[group][k]
	if s.renewal != lock.Renewal {
		s = lease{lock.Renewal, now}
		l.put(group, k, s)
	}
	return lock, s
}

// lock gets a client those of the queues that no other one holds, and renews what
// it has. It returns those that the client holds now.
func (l *leases) lock(ctx context.Context, group, client string, queues []queueKey) ([]queueKey, error) {
	lead := l.b.group.Leadership()
	if !lead.Self {
		return nil, raftgroup.ErrNotLeader
	}
	ask, renew := l.wanted(lead.Term, group, client, queues)
	if err := l.propose(ctx, client, ask); err != nil {
		return nil, err
	}
	if len(ask) == 0 && renew {
		if err := l.b.group.Barrier(ctx); err != nil {
			return nil, err
		}
	}
	return l.held(lead.Term, group, client, queues)
}

// wanted are the locks that need an entry for the client to have them, and
// whether there are others that it has.
func (l *leases) wanted(term uint64, group, client string, queues []queueKey) (ask []fsm.QueueLock, renew bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.follow(term, now)
	for _, k := range queues {
		lock, s := l.of(group, k, now)
		switch {
		case lock.Client == "" || l.over(s, now):
			ask = append(ask, fsm.QueueLock{Group: group, Topic: k.topic, Queue: k.queue, Lock: lock})
		case lock.Client == client:
			renew = true
		}
	}
	return ask, renew
}

// held are those of the queues that the client holds. Their leases start anew.
func (l *leases) held(term uint64, group, client string, queues []queueKey) (held []queueKey, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term != term {
		return nil, raftgroup.ErrNotLeader
	}
	now := time.Now()
	for _, k := range queues {
		if lock, s := l.of(group, k, now); lock.Client == client && !l.over(s, now) { // L3
			l.put(group, k, lease{lock.Renewal, now})
			held = append(held, k)
		}
	}
	return held, nil
}

// unlock ends the locks that a client has.
func (l *leases) unlock(ctx context.Context, group, client string, queues []queueKey) error {
	lead := l.b.group.Leadership()
	if !lead.Self {
		return raftgroup.ErrNotLeader
	}
	return l.propose(ctx, "", l.end(lead.Term, group, client, queues))
}

// end lets the leases of a client's locks run out at once: from now on it has
// them back by an entry only, which is behind that of the unlock.
func (l *leases) end(term uint64, group, client string, queues []queueKey) (ended []fsm.QueueLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.follow(term, now)
	for _, k := range queues {
		if lock, _ := l.of(group, k, now); lock.Client == client {
			l.put(group, k, lease{renewal: lock.Renewal})
			ended = append(ended, fsm.QueueLock{Group: group, Topic: k.topic, Queue: k.queue, Lock: lock})
		}
	}
	return ended
}

// expire ends the locks whose leases have run out, so that no later leader lets
// them again.
func (l *leases) expire(ctx context.Context, term uint64) {
	for _, locks := range l.expired(term) {
		if err := l.propose(ctx, "", locks); err != nil {
			l.b.logger.Debug("queue locks that have run out are kept for now", "consumerGroup", locks[0].Group, "error", err)
			return
		}
	}
}

func (l *leases) expired(term uint64) (ended [][]fsm.QueueLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.follow(term, now)
	if now.Before(l.first) {
		return nil
	}
	l.first = now.Add(l.live)
	for group, held := range l.groups {
		var locks []fsm.QueueLock
		for k := range held {
			lock, s := l.of(group, k, now)
			switch end := s.start.Add(l.live); {
			case lock.Client == "":
			case l.over(s, now):
				locks = append(locks, fsm.QueueLock{Group: group, Topic: k.topic, Queue: k.queue, Lock: lock})
				l.first = now // until an entry has ended it
			case end.Before(l.first):
				l.first = end
			}
		}
		if len(locks) > 0 {
			ended = append(ended, locks)
		}
	}
	return ended
}

// ordered says whether a client holds a queue for a group.
func (l *leases) ordered(group string) bool {
	lead := l.b.group.Leadership()
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.follow(lead.Term, now)
	for k := range l.groups[group] {
		if lock, s := l.of(group, k, now); lock.Client != "" && !l.over(s, now) {
			return true
		}
	}
	return false
}

// propose grants locks of one group to a client, or ends them, by as many
// commands as it takes.
func (l *leases) propose(ctx context.Context, client string, locks []fsm.QueueLock) error {
	for len(locks) > 0 {
		n, size := 0, 0
		for n < len(locks) && size < lockBytes {
			size += len(locks[n].Topic) + 16
			n++
		}
		if _, err := l.b.group.Propose(ctx, fsm.Grant(locks[0].Group, client, locks[:n])); err != nil {
			return err
		}
		locks = locks[n:]
	}
	return nil
}
