package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func (c *cluster) pid(id string) int {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.running[id]
	if p == nil {
		c.t.Fatalf("%s is not up", id)
	}
	return p.cmd.Process.Pid
}

// pause stops processes by SIGSTOP, seen to be stopped.
func (c *cluster) pause(ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		if err := syscall.Kill(c.pid(id), syscall.SIGSTOP); err != nil {
			c.t.Fatal(err)
		}
		c.mu.Lock()
		c.paused[id] = true
		c.mu.Unlock()
	}
	for _, id := range ids {
		eventually(c.t, id+" stands still", func() error {
			if s := c.procState(id); s != "T" {
				return fmt.Errorf("its state is %s", s)
			}
			return nil
		})
	}
}

// resume lets them go on.
func (c *cluster) resume(ids ...string) {
	c.t.Helper()
	for _, id := range ids {
		if err := syscall.Kill(c.pid(id), syscall.SIGCONT); err != nil {
			c.t.Fatal(err)
		}
		c.mu.Lock()
		delete(c.paused, id)
		c.mu.Unlock()
	}
}

// procState is the letter for what a process does: T when it is stopped.
func (c *cluster) procState(id string) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.pid(id)))
	if err != nil {
		return err.Error()
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}

// holdings are what a process holds.
type holdings struct {
	sockets, files int
	rss            int64 // bytes
}

func (u holdings) String() string {
	return fmt.Sprintf("%d sockets, %d files, %d MiB", u.sockets, u.files, u.rss>>20)
}

func (c *cluster) holdings(id string) (u holdings) {
	c.t.Helper()
	dir := fmt.Sprintf("/proc/%d", c.pid(id))
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, fd := range fds {
		switch to, err := os.Readlink(filepath.Join(dir, "fd", fd.Name())); {
		case err != nil: // closed meanwhile
		case strings.HasPrefix(to, "socket:"):
			u.sockets++
		default:
			u.files++
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "statm"))
	if err != nil {
		c.t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		c.t.Fatal(err)
	}
	u.rss = pages * int64(os.Getpagesize())
	return u
}

func (c *cluster) allHoldings() map[string]holdings {
	c.t.Helper()
	all := map[string]holdings{}
	for _, id := range c.ids {
		all[id] = c.holdings(id)
	}
	return all
}

const (
	// moreSockets is how many connections to peers and name servers come and go.
	moreSockets = 20
	// moreFiles are those that hold more messages than before: two groups' queues,
	// maxOpenFiles each, and segments.
	moreFiles = 2*512 + 50
	// moreMemory is what the garbage collector, indexes of more messages and a cache
	// may have more.
	moreMemory = 400 << 20
	// idleTime is how long a broker keeps a connection whose client is gone without
	// a word, and some more.
	idleTime = 150 * time.Second
)

// heldAgain checks L2: nodes that nobody uses hold about what they held before.
func (c *cluster) heldAgain(before map[string]holdings) {
	c.t.Helper()
	deadline := time.Now().Add(idleTime)
	for id, was := range before {
		for {
			is := c.holdings(id)
			if is.sockets <= was.sockets+moreSockets && is.files <= was.files+moreFiles && is.rss <= was.rss+moreMemory {
				c.t.Logf("%s held %v, holds %v", id, was, is)
				break
			}
			if time.Now().After(deadline) {
				c.t.Errorf("%s held %v before, and holds %v now that nobody uses it", id, was, is)
				break
			}
			<-time.After(200 * time.Millisecond)
		}
	}
}

// limitFiles bounds the descriptors of a process.
func (c *cluster) limitFiles(id string, n int) {
	c.t.Helper()
	var now unix.Rlimit
	if err := unix.Prlimit(c.pid(id), unix.RLIMIT_NOFILE, nil, &now); err != nil {
		c.t.Fatal(err)
	}
	want := unix.Rlimit{Cur: uint64(n), Max: now.Max}
	if err := unix.Prlimit(c.pid(id), unix.RLIMIT_NOFILE, &want, nil); err != nil {
		c.t.Fatal(err)
	}
}
