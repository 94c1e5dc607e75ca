package raftgroup

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/raftmq/raftmq/storage"
)

// farBehind gives a group one of whose followers is down and can be helped only by
// a snapshot, and what the queue holds.
func farBehind(t *testing.T, c *testCluster, messages int) (n *testNode, want []string) {
	t.Helper()
	c.createTopic("T", 1)
	n = c.followers()[0]
	n.kill()
	for i := range messages {
		body := fmt.Sprintf("%d-%08000d", i, i)
		c.deliver("T", 0, body)
		want = append(want, body)
	}
	c.wait("the log has forgotten", func() bool {
		first, err := c.leader().group().log.FirstIndex()
		return err == nil && first > 10
	})
	return n, want
}

func smallLogs(rate int64) func(*Config) {
	return func(c *Config) { c.SnapshotBytes, c.TrailingBytes, c.CatchUpRate = 128<<10, 1, rate }
}

// missingBytes is what a replica has still to fetch.
func (n *testNode) missingBytes() (sum int64) {
	for _, r := range n.group().Store().Missing() {
		sum += r.End - r.Off
	}
	return sum
}

// Row 15: what is fetched is what was missing, no byte twice, however often either
// side is killed meanwhile; but for the part that was on its way. Until it lacks
// nothing the replica stands last, can't be given leadership, and serves nothing
// of what it lacks.
func TestCatchUpFetchesWhatIsMissing(t *testing.T) {
	inCluster(t, 3, smallLogs(256<<10), func(t *testing.T, c *testCluster) {
		n, want := farBehind(t, c, 200)
		n.start()
		all := int64(0)
		c.wait("it misses most of it", func() bool {
			all = n.missingBytes() + n.group().Status().Fetched
			return n.missingBytes() > 1<<20
		})
		fetched, parts := int64(0), int64(0)
		rng := rand.New(rand.NewPCG(testSeed(t), 15))
		for left := all * 7 / 8; left > all/8; left -= all / 8 {
			c.wait("it has some more", func() bool { return n.missingBytes() < left })
			s := n.group().Status()
			if s.Complete || n.missingBytes() == 0 {
				t.Fatal("the catch-up is over too soon")
			}
			if n.group().standing.mayStand() == nil || s.Restrained == "" {
				t.Errorf("it may stand for election with %d bytes missing", s.Missing)
			}
			if err := c.leader().group().TransferLeadership(t.Context(), n.id); !errors.Is(err, errNobodyFit) {
				t.Errorf("it is given leadership with %d bytes missing: %v", s.Missing, err)
			}
			gap := n.group().Store().Missing()[0]
			if _, err := n.group().Store().Read(gap.Off, 100); !errors.Is(err, storage.ErrMissing) {
				t.Errorf("it serves what it lacks: %v", err)
			}
			switch rng.IntN(3) {
			case 0:
				fetched += n.group().Status().Fetched
				parts++
				n.kill()
				n.start()
			case 1:
				for _, o := range c.nodes {
					if o != n {
						o.kill()
						o.start()
						parts++ // what a source had sent, or not quite
					}
				}
			case 2:
				c.net.sever(func(from, to string) bool { return from == n.addr || to == n.addr })
				parts++
			}
		}
		c.wait("it misses nothing", func() bool { return n.group().Store().Complete() })
		fetched += n.group().Status().Fetched
		// The last block of a segment may be zeros, and those are on its own disk.
		zeros := int64(n.group().Store().Stats().Segments) * 4096
		if fetched < all-zeros || fetched > all+parts*maxFetchChunk/4 {
			t.Errorf("%d bytes were fetched, %d were missing", fetched, all)
		}
		t.Logf("%d bytes were missing, %d fetched, %d times something was killed", all, fetched, parts)
		c.wait("it may stand", func() bool { return n.group().standing.mayStand() == nil })
		c.checkEqual()
		equalBodies(t, n.id, n.bodies("T", 0), want)
	})
}

// Nothing is fetched twice, nor too much, if nothing fails.
func TestCatchUpFetchesNothingTwice(t *testing.T) {
	inCluster(t, 3, smallLogs(256<<10), func(t *testing.T, c *testCluster) {
		n, want := farBehind(t, c, 60)
		// With a newer one it would fetch the block again that this snapshot ends in.
		if err := c.leader().group().Snapshot(); err != nil {
			t.Fatal(err)
		}
		n.start()
		all := int64(0)
		c.wait("it misses something", func() bool { all = n.missingBytes() + n.group().Status().Fetched; return all > 0 })
		c.wait("it misses nothing", func() bool { return n.group().Store().Complete() })
		// A block of zeros at a segment's end may be on its own disk.
		if got, own := n.group().Status().Fetched, n.group().Store().Stats().AdoptedBytes; got+own != n.group().Store().End() || got > all {
			t.Errorf("%d bytes were fetched, %d were missing, %d found", got, all, own)
		}
		if lead := c.leader().group(); lead.given.Load() != 0 {
			t.Errorf("the leader gave %d bytes, a follower had them", lead.given.Load())
		}
		c.checkEqual()
		equalBodies(t, n.id, n.bodies("T", 0), want)
	})
}

// Row 15: at 200 kbit/s a replica catches up, and no election comes of it; one
// that has to be is held meanwhile.
func TestCatchUpOnASlowLink(t *testing.T) {
	inCluster(t, 3, smallLogs(0), func(t *testing.T, c *testCluster) {
		n, want := farBehind(t, c, 60)
		for _, o := range c.others(n) {
			for _, l := range [][2]string{{n.addr, o}, {o, n.addr}} {
				c.net.change(l[0], l[1], func(l *memLink) { l.rate = 200_000 / 8 })
			}
		}
		leader := c.leader()
		term := leader.group().raft().CurrentTerm()
		n.start()
		begun := time.Now()
		c.wait("it fetches", func() bool { return n.group().Status().Fetched > 0 })
		for i := int64(1); i <= 3; i++ {
			before := n.group().Status().Fetched
			c.wait("it gets on", func() bool { return n.group().Status().Fetched > before+20<<10 })
		}
		if now := c.leader().group().raft().CurrentTerm(); now != term || n.missingBytes() == 0 {
			t.Errorf("term %d has become %d while %d bytes are missing", term, now, n.missingBytes())
		}
		leader.kill()
		killed := time.Now()
		c.wait("another one leads", func() bool { l := c.leading(); return l != nil && l != n })
		t.Logf("another leader after %v", time.Since(killed))
		if d := time.Since(killed); d > 10*time.Second {
			t.Errorf("it took %v", d)
		}
		leader.start()
		for range 10 { // minutes
			if c.poll(time.Minute, func() bool { return n.group().Store().Complete() }) {
				break
			}
		}
		t.Logf("caught up after %v", time.Since(begun))
		c.net.heal()
		c.checkEqual()
		equalBodies(t, n.id, n.bodies("T", 0), want)
	})
}
