package broker

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage/disk"
)

// A disk fills up until there is no room for another segment. What must go
// through then does: the election of a leader, and a trim. It is not parallel, as
// the disk is everybody's.
func TestNoRoomForASegment(t *testing.T) {
	const margin = 1 << 30
	usage, err := disk.OS().Usage(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if usage.Free < 4*margin {
		t.Skipf("only %d bytes of disk are free", usage.Free)
	}
	cl := startCluster(t, 1, func(c *Config) {
		c.DiskReserve = ByteSize(usage.Free - margin)
		c.MessageDelayLevel = "1s"
	})
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	filler, err := os.Create(filepath.Join(t.TempDir(), "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close() // it is removed with its directory
	size := b.group.State().Configuration().SegmentSize
	body := strings.Repeat("x", 1<<20)
	for b.group.Store().End() < 2*size {
		c.mustSend(message("T", 0), body)
	}
	c.mustSend(message("T", 0, remoting.PropDelay, "1"), "later")
	// Less than a segment above the reserve is left.
	if usage, err = disk.OS().Usage(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	above := int64(usage.Free) - int64(cl.cfg.DiskReserve)
	if err := unix.Fallocate(int(filler.Fd()), 0, 0, above-size/2); err != nil {
		t.Skip("the file system can't fallocate: ", err)
	}
	eventually(t, "a send that is refused", func() bool {
		_, err := c.send(message("T", 0), body)
		return codeOf(err) == remoting.ServiceNotAvailable
	})
	if b.group.Store().Room() == nil {
		t.Error("there is room")
	}
	if now := b.group.Leadership(); !now.Self {
		t.Errorf("it has cost the leader its term: %+v", now)
	}
	cl.end(t, "n1")
	cl.mustStart(t, "n1")
	b = cl.leader(t)
	c = dial(t, b)
	if got := c.all("T", 0); len(got) < 2 {
		t.Errorf("%d messages can be read", len(got))
	}
	if _, err := b.group.Trim(t.Context(), size); err != nil {
		t.Errorf("a trim is refused: %v", err)
	}
	if got := b.group.Store().Min(); got != size {
		t.Errorf("the CommitLog begins at %d", got)
	}
	if err := filler.Truncate(0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "room again", func() bool {
		_, err := c.send(message("T", 0), "taken again")
		return err == nil
	})
	eventually(t, "the delayed message", func() bool {
		return slices.Contains(bodiesOf(c.all("T", 0)), "later")
	})
}
