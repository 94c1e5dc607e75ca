package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
)

// fetch brings one missing range, or part of one, from a peer. False if nothing
// is missing.
func fetch(t *testing.T, rng *rand.Rand, to, from *Store) bool {
	t.Helper()
	ranges := to.Missing()
	if len(ranges) == 0 {
		return false
	}
	r := ranges[rng.IntN(len(ranges))]
	lie := rng.IntN(5) == 0
	accept := func(err error, lied bool) {
		t.Helper()
		if lied && !errors.Is(err, ErrMismatch) || !lied && err != nil {
			t.Fatalf("fill of %+v, lied %v: %v", r, lied, err)
		}
	}
	if r.Sums > 0 {
		if r.End > r.Off {
			n := min(r.End-r.Off, blockSize)
			if err := to.Fill(r.Off, make([]byte, n)); !errors.Is(err, ErrNoSums) {
				t.Fatalf("fill without sums: %v", err)
			}
		}
		sums, err := from.ReadSums(r.Off, r.Sums)
		if err != nil {
			t.Fatalf("sums of %+v: %v", r, err)
		}
		if lie = lie && len(sums) > 0; lie {
			sums[rng.IntN(len(sums))] ^= 1
		}
		accept(to.FillSums(r.Off, sums), lie)
		return true
	}
	off := r.Off + rng.Int64N((r.End-r.Off+blockSize-1)/blockSize)*blockSize
	end := min(r.End, off+blockSize*(1+rng.Int64N(4)))
	data, err := from.Read(off, int(end-off))
	if err != nil {
		t.Fatalf("read [%d, %d) at the peer: %v", off, end, err)
	}
	if lie {
		data[rng.IntN(len(data))] ^= 1
	}
	accept(to.Fill(off, data), lie)
	return true
}

// A replica is brought up to date from another's manifest, by ranges in random
// order, with crashes and kills, new manifests, batches, trims and snapshots of
// its own in between. It ends with the same bytes.
func TestCatchUp(t *testing.T) {
	rounds := 20
	if os.Getenv("RAFTMQ_LONG") != "" {
		rounds = 600
	}
	first := seed(t)
	if os.Getenv("RAFTMQ_SEED") != "" {
		rounds = 1
	}
	for i := range rounds {
		s := first + uint64(i)
		t.Run(fmt.Sprint(s), func(t *testing.T) { t.Parallel(); catchUpRound(t, s) })
	}
}

func catchUpRound(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	o := testOptions(nil)
	o.SegmentSize = int64(8+4*rng.IntN(8)) << 10
	leader := newRig(t, o)
	incarnation := uint64(1)
	step := func() {
		switch rng.IntN(12) {
		case 0:
			leader.do(leader.m.trim(rng.Int64N(int64(len(leader.m.log)) + 1)))
		case 1:
			leader.do(leader.m.drop(TopicID{"t1", incarnation}))
			incarnation++
		default:
			leader.do(leader.m.append(leader.randomBatch(rng, incarnation)...))
		}
	}
	follower := newRig(t, o)
	follower.m = leader.m
	for range rng.IntN(20) {
		step()
		follower.replay()
		if rng.IntN(4) == 0 {
			follower.snap()
		}
	}
	for range 10 + rng.IntN(30) {
		step()
	}
	// The leader's snapshot is sent, and stored, and then resumed from.
	install := func() {
		leader.snap()
		follower.snapshot, follower.snapshotAt = leader.snapshot, leader.snapshotAt
		follower.applied = leader.snapshotAt
		switch rng.IntN(3) {
		case 0:
			follower.must(follower.s.Resume(follower.manifest()))
		case 1:
			follower.kill()
		default:
			follower.crash(rng.Uint64())
		}
	}
	install()
	for range 60 {
		switch rng.IntN(16) {
		case 0:
			follower.kill()
		case 1:
			follower.crash(rng.Uint64())
		case 2:
			follower.snap()
		case 3:
			step()
			follower.replay()
			install()
		case 4, 5:
			step()
			follower.replay()
		case 6:
			armed := follower.crashAt(1+rng.Int64N(20), rng.IntN(2) == 0, rng.Uint64())
			for range 10 {
				fetch(t, rng, follower.s, leader.s)
			}
			if m := armed(); m != nil {
				follower.restartAt(m)
			}
			follower.fs.SetHook(nil)
		default:
			for range 5 {
				fetch(t, rng, follower.s, leader.s)
			}
		}
		follower.neverWrong()
	}
	follower.await(func() bool {
		for fetch(t, rng, follower.s, leader.s) {
		}
		return follower.s.Complete()
	})
	leader.check()
	follower.check()
	if err := follower.search(); err != nil {
		t.Errorf("search: %v", err)
	}
	a, err := leader.s.Pin().AppendBinary(nil)
	follower.must(err)
	b, err := follower.s.Pin().AppendBinary(nil)
	follower.must(err)
	if !bytes.Equal(a, b) {
		t.Error("the two replicas' manifests differ")
	}
	follower.snap()
	follower.crash(rng.Uint64())
	follower.check()
	follower.await(follower.s.Complete)
	if n := follower.s.Stats(); n.BadBlocks+n.BadQueueBlocks+n.BadSums > 0 {
		t.Errorf("damage was found where there was none: %+v", n)
	}
}

// neverWrong reads everything: what is there is right, what is not is missing.
func (r *rig) neverWrong() {
	r.t.Helper()
	s, m := r.s, r.m
	for at := s.Min(); at < s.End(); {
		n := min(5000, s.End()-at, m.size-at%m.size)
		b, err := s.Read(at, int(n))
		if err != nil && !errors.Is(err, ErrMissing) && !errors.Is(err, ErrTrimmed) {
			r.t.Fatalf("read at %d: %v", at, err)
		}
		if err == nil && !bytes.Equal(b, m.log[at:at+n]) {
			r.t.Fatalf("wrong bytes at %d", at)
		}
		at += n
	}
	for _, q := range s.allQueues() {
		units := m.queues[q.id]
		lo, err := q.Min()
		if err != nil && !errors.Is(err, ErrMissing) || err == nil && lo != m.minOf(q.id) {
			r.t.Fatalf("queue %s begins at %d, expected %d: %v", q.id, lo, m.minOf(q.id), err)
		}
		for off := m.minOf(q.id); off < q.Max(); off++ {
			u, err := q.Units(off, 1, nil)
			if err != nil && !errors.Is(err, ErrMissing) && !errors.Is(err, ErrTrimmed) {
				r.t.Fatalf("unit %d of queue %s: %v", off, q.id, err)
			}
			if err == nil && u[0] != units[off] {
				r.t.Fatalf("unit %d of queue %s is %v, expected %v", off, q.id, u[0], units[off])
			}
		}
	}
}
