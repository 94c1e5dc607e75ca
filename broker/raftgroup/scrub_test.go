package raftgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/raftmq/raftmq/storage/disk"
	"github.com/raftmq/raftmq/storage/raftlog"
)

const (
	logFiles   = "data/raft/log"
	snapFiles  = "data/raft/snapshots"
	storeFiles = "data/store"
)

// rotten is a file that goes bad.
type rotten struct {
	name string
	file func(*testing.T, *disk.Mem) string
	// at is a byte in it that means something.
	at func(b []byte) int
	// What becomes of it: mended, or the replica stops or refuses to start.
	flipRunning, flipStart, goneRunning, goneStart rotOutcome
	text                                           string // of the refusal
}

type rotOutcome int

const (
	mended rotOutcome = iota
	stops
	either // it depends on what else is there
)

func (o rotOutcome) String() string { return [...]string{"mended", "stops", "either"}[o] }

// filesIn lists the files in a directory, those that hold something.
func filesIn(t *testing.T, m *disk.Mem, dir, suffix string) (names []string) {
	t.Helper()
	entries, err := m.ReadDir("test", dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case e.IsDir():
			names = append(names, filesIn(t, m, name, suffix)...)
		case strings.HasSuffix(name, suffix) && (suffix != "" || path.Ext(name) == ""):
			names = append(names, name)
		}
	}
	return names
}

func oldest(names []string) string { return names[0] }

func contentOf(t *testing.T, m *disk.Mem, name string) []byte {
	t.Helper()
	f, err := m.OpenFile("test", name, os.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

const rotMark = "here the bit will flip"

func rottenFiles() []rotten {
	in := func(dir, suffix string, pick func([]string) string) func(*testing.T, *disk.Mem) string {
		return func(t *testing.T, m *disk.Mem) string { return pick(filesIn(t, m, dir, suffix)) }
	}
	middle := func(b []byte) int { return len(b) / 2 }
	active := func(names []string) string { return names[len(names)-2] } // the last was made ahead
	newest := func(names []string) string { return names[len(names)-1] }
	return []rotten{
		{"sealed segment", in(storeFiles+"/commitlog", "", oldest), middle, mended, mended, mended, mended, ""},
		{"active segment", in(storeFiles+"/commitlog", "", active), func([]byte) int { return 5000 }, mended, mended, stops, mended, ""},
		{"block sums", in(storeFiles+"/commitlog-sums", "", oldest), func([]byte) int { return 77 }, mended, mended, mended, mended, ""},
		{"queue", in(storeFiles+"/consumequeue", "", oldest), func([]byte) int { return 205 }, mended, mended, mended, mended, ""},
		{"queue sums", in(storeFiles+"/consumequeue", ".sums", oldest), func([]byte) int { return 1 }, mended, mended, mended, mended, ""},
		{"index", in(storeFiles+"/index", ".run", newest), func([]byte) int { return 4096 + 100 }, mended, mended, mended, mended, ""},
		{"checkpoint", in(storeFiles, "checkpoint.1", oldest), middle, mended, mended, mended, mended, ""},
		{"format", func(*testing.T, *disk.Mem) string { return storeFiles + "/format" }, middle, mended, stops, mended, stops, "format"},
		{"identity", func(*testing.T, *disk.Mem) string { return "data/" + IdentityFile }, func([]byte) int { return 0 }, mended, stops, mended, stops, IdentityFile},
		{"snapshot", in(snapFiles, ".snap", newest), middle, mended, stops, mended, either, "snapshot"},
		{"raft log", func(t *testing.T, m *disk.Mem) string {
			names := filesIn(t, m, logFiles, ".seg")
			return names[slices.IndexFunc(names, func(n string) bool { return bytes.Contains(contentOf(t, m, n), []byte(rotMark)) })]
		}, func(b []byte) int { return bytes.Index(b, []byte(rotMark)) }, mended, stops, stops, stops, "log"},
		{"raft log's header", in(logFiles, ".seg", oldest), func([]byte) int { return 40 }, mended, mended, stops, stops, "log"},
	}
}

// inRottenCluster gives a test a group with files of every kind, and what they
// hold.
func inRottenCluster(t *testing.T, test func(t *testing.T, c *testCluster, want []string)) {
	inCluster(t, 3, func(c *Config) { c.SnapshotBytes, c.TrailingBytes, c.RaftSegmentSize = 1<<30, 256<<10, 4<<20 }, func(t *testing.T, c *testCluster) {
		c.createTopic("T", 1)
		var want []string
		send := func(bodies ...string) {
			c.wait("a batch is stored", func() bool {
				_, err := c.leader().sendAll(newTestSend("T", 0, "U"+bodies[0], bodies...))
				return err == nil
			})
			want = append(want, bodies...)
		}
		for i := range 3 {
			var bodies []string
			for j := range 100 { // a block of the queue, and more
				bodies = append(bodies, fmt.Sprintf("%d.%d %0200d", i, j, 0))
			}
			send(bodies...)
		}
		for i := range 30 {
			send(fmt.Sprintf("%d %08000d", i, i))
		}
		c.settle()
		for _, n := range c.nodes {
			if err := n.group().Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		send(rotMark)
		for i := range 5 {
			send(fmt.Sprintf("more %d %04000d", i, i))
		}
		c.settle()
		test(t, c, want)
	})
}

// neverWrong reads what a replica has: right, or an error.
func (n *testNode) neverWrong(want []string) {
	n.c.t.Helper()
	log, _ := n.queue("T", 0) // an error is right, too
	for i, m := range log.messages {
		if i >= len(want) || m.body != want[i] {
			n.c.t.Errorf("%s serves a wrong message at %d", n.id, i)
			return
		}
	}
}

// scrubbed waits for a pass.
func (c *testCluster) scrubbed(n *testNode) {
	c.t.Helper()
	g := n.group()
	asked := g.Scrub(0)
	c.wait("a pass over the files has ended", func() bool { return g.Err() != nil || g.Status().Scrub.Answered >= asked })
}

// mendedOrStopped checks what became of damage: all is right again and stays so,
// or the replica has stopped, and the others go on.
func (c *testCluster) mendedOrStopped(n *testNode, o rotOutcome, want []string) {
	t := c.t
	t.Helper()
	n.neverWrong(want)
	c.scrubbed(n)
	n.neverWrong(want)
	if n.group().Err() != nil {
		if o == mended {
			t.Fatalf("it stopped: %v", n.group().Err())
		}
		n.stop()
		c.deliver("T", 0, "after") // the others go on
		return
	}
	if o == stops {
		t.Fatalf("it goes on: %+v", n.group().Status().Scrub)
	}
	// A block that is not whole is fetched when it is.
	body := fmt.Sprintf("after %08000d", 0)
	c.deliver("T", 0, body)
	want = append(slices.Clone(want), body)
	c.settle()
	c.scrubbed(n)
	c.wait("it lacks nothing", func() bool { return n.group().Store().Complete() })
	equalBodies(t.(*testing.T), n.id, n.bodies("T", 0), want)
	c.checkEqual()
	if err := n.group().Snapshot(); err != nil { // the next one finds all in its place
		t.Fatal(err)
	}
	n.powerLoss(3)
	if err := n.tryStart(); err != nil {
		t.Fatalf("it does not start again: %v", err)
	}
	c.settle()
	c.scrubbed(n)
	if s := n.group().Status().Scrub; len(s.Found) > 0 || s.Error != "" {
		t.Errorf("after it was started again there is damage left: %+v", s)
	}
	equalBodies(t.(*testing.T), n.id, n.bodies("T", 0), want)
	c.checkEqual()
}

func (c *testCluster) victim(leader bool) *testNode {
	if leader {
		return c.leader()
	}
	return c.followers()[0]
}

// Row 21: a bit flipped in each kind of file, of a leader and of a follower that
// run, and at the start.
func TestBitRot(t *testing.T) {
	rng := rand.New(rand.NewPCG(testSeed(t), 21))
	for _, r := range rottenFiles() {
		for _, where := range []string{"follower", "leader", "start"} {
			bit := uint(rng.IntN(8))
			t.Run(r.name+", "+where, func(t *testing.T) {
				inRottenCluster(t, func(t *testing.T, c *testCluster, want []string) {
					n := c.victim(where == "leader")
					m := n.fs
					if where == "start" {
						n.kill()
						m = n.left.fs
					}
					name := r.file(t, m)
					if err := m.FlipBit(name, int64(r.at(contentOf(t, m, name))), bit); err != nil {
						t.Fatal(err)
					}
					if where != "start" {
						before := n.group().Status().Scrub
						c.mendedOrStopped(n, r.flipRunning, want)
						if len(before.Found) > 0 {
							t.Errorf("damage was found before there was any: %+v", before)
						}
						return
					}
					c.startsOrSays(n, name, r.flipStart, r.text, want)
				})
			})
		}
	}
}

func (c *testCluster) startsOrSays(n *testNode, name string, o rotOutcome, text string, want []string) {
	t := c.t
	t.Helper()
	err := n.tryStart()
	switch {
	case err != nil && o == mended:
		t.Fatalf("it does not start: %v", err)
	case err == nil && o == stops:
		t.Fatalf("it starts with a damaged %s", name)
	case err != nil:
		if !strings.Contains(err.Error(), text) {
			t.Fatalf("it does not say what is wrong with %s: %v", name, err)
		}
		c.deliver("T", 0, "after")
	default:
		c.mendedOrStopped(n, mended, want)
	}
}

// Row 22: each kind of file removed, cut, replaced by text, or by an older copy
// of itself, while the replica runs and at the start.
func TestWrongFile(t *testing.T) {
	for _, r := range rottenFiles() {
		for _, how := range []string{"removed", "cut", "text", "older"} {
			for _, where := range []string{"running", "start"} {
				if !long() && (how == "text") != (where == "start") && how != "removed" {
					continue
				}
				t.Run(r.name+", "+how+", "+where, func(t *testing.T) {
					inRottenCluster(t, func(t *testing.T, c *testCluster, want []string) {
						n := c.followers()[0]
						m := n.fs
						if where == "start" {
							n.kill()
							m = n.left.fs
						}
						name := r.file(t, m)
						o := r.goneRunning
						if where == "start" {
							o = r.goneStart
						}
						if o == stops && where == "running" && (how == "text" || how != "removed" && r.name == "active segment") {
							o = mended // it is the same file, and has its size
						}
						spoil(t, m, name, how, r.at(contentOf(t, m, name)))
						if how == "older" && o == stops {
							o = either // what is in front of it may be all that counts
						}
						if where == "running" {
							c.mendedOrStopped(n, o, want)
						} else {
							c.startsOrSays(n, name, o, r.text, want)
						}
					})
				})
			}
		}
	}
}

// spoil removes a file, or gives it another content: in place, as it were.
func spoil(t *testing.T, m *disk.Mem, name, how string, at int) {
	t.Helper()
	b := contentOf(t, m, name)
	if how == "removed" {
		if err := m.Remove("test", name); err != nil {
			t.Fatal(err)
		}
		return
	}
	f, err := m.OpenFile("test", name, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	switch how {
	case "cut":
		err = f.Truncate(int64(at))
	case "text":
		_, err = f.WriteAt(bytes.Repeat([]byte("text "), len(b)/5+1)[:len(b)], 0)
	case "older": // as if it had never been written beyond a place
		clear(b[at:])
		_, err = f.WriteAt(b, 0)
	}
	if err = errors.Join(err, f.Datasync(), f.Close()); err != nil && !errors.Is(err, fs.ErrClosed) {
		t.Fatal(err)
	}
}

// mountable is a file system that can be mounted over.
type mountable struct {
	disk.FS
	now atomic.Pointer[disk.Mem]
}

func (m *mountable) OpenFile(l disk.Label, name string, flag int) (disk.File, error) {
	return m.now.Load().OpenFile(l, name, flag)
}

func (m *mountable) Rename(l disk.Label, from, to string) error {
	return m.now.Load().Rename(l, from, to)
}

func (m *mountable) SyncDir(l disk.Label, name string) error { return m.now.Load().SyncDir(l, name) }

// Row 22: the directory of another replica, or none, comes to lie where this one's
// was. The replica stops, and what is there stays as it is.
func TestDirectoryMountedOver(t *testing.T) {
	for _, what := range []string{"another replica's", "another replica's, without a log", "another replica's, without an identity", "empty"} {
		t.Run(what, func(t *testing.T) {
			withSpares(t, 3, 3, nil, func(t *testing.T, c *testCluster) {
				n, other := c.nodes[0], c.nodes[2]
				n.stop()
				place, before := &mountable{FS: n.fs}, n.tweak
				place.now.Store(n.fs)
				n.tweak = func(cfg *Config) {
					if before != nil {
						before(cfg)
					}
					cfg.FS = place
				}
				n.start()
				c.createTopic("T", 1)
				c.deliver("T", 0, "m")
				c.settle()
				other.stop()
				over := other.fs.Clone()
				gone := map[string]string{"another replica's, without a log": logFiles, "another replica's, without an identity": "data/" + IdentityFile, "empty": "data"}[what]
				if gone != "" {
					if err := over.RemoveAll("test", gone); err != nil {
						t.Fatal(err)
					}
				}
				was, wasErr := ReadIdentity(over, "data")
				place.now.Store(over)
				c.scrubbed(n)
				if err := n.group().Err(); !errors.Is(err, raftlog.ErrForeign) && !errors.Is(err, raftlog.ErrMissing) {
					t.Errorf("it has stopped with %v", err)
				}
				if is, err := ReadIdentity(over, "data"); is != was || (err == nil) != (wasErr == nil) {
					t.Errorf("the directory named %+v, %v, and now %+v, %v", was, wasErr, is, err)
				}
				place.now.Store(n.fs)
				n.stop()
				other.start()
				c.deliver("T", 0, "the others go on")
			})
		})
	}
}

// Row 22: an identity that names another replica, in the directory of this one,
// stops it. Which of the two is right nobody knows.
func TestIdentityOfAnother(t *testing.T) {
	for _, edit := range []func(*Identity){
		func(id *Identity) { id.Node = "n9" },
		func(id *Identity) { id.Incarnation = "0000000000" },
	} {
		inCluster(t, 3, nil, func(t *testing.T, c *testCluster) {
			n := c.followers()[0]
			id, err := ReadIdentity(n.fs, "data")
			if err != nil {
				t.Fatal(err)
			}
			edit(&id)
			if err := writeIdentity(n.fs, "data", id); err != nil {
				t.Fatal(err)
			}
			c.scrubbed(n)
			if err := n.group().Err(); !errors.Is(err, ErrForeign) {
				t.Errorf("it has stopped with %v", err)
			}
			if is, err := ReadIdentity(n.fs, "data"); err != nil || is != id {
				t.Errorf("it names %+v, %v", is, err)
			}
			n.stop()
		})
	}
}
