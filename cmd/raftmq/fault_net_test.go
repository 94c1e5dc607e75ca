package main

import (
	bigendian "encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// clients is the name of the tests' own place in a network.
const clients = "clients"

// network joins the nodes of a cluster, each in a network namespace of its own,
// and the clients, which are this process. All packets go through here, where a
// rule for each pair and direction says what becomes of them.
type network struct {
	ports map[string]*netPort
	links map[[2]string]*link // neither changes
	done  sync.WaitGroup
}

// rule says what becomes of the packets from one place to another. The zero
// value lets them pass.
type rule struct {
	cut           bool          // nothing comes through, and nobody is told
	refuse        bool          // what TCP sends is answered by a reset
	delay, jitter time.Duration // each packet's: delay to delay+jitter, in order
	reorder       bool          // not in order
	drop, double  float64       // probabilities
	rate          int           // bits a second; what would wait longer than queueTime is dropped
}

const queueTime = 2 * time.Second

// link is one direction between two places.
type link struct {
	to *netPort

	mu      sync.Mutex
	rule    rule
	rnd     *rand.Rand
	free    time.Time // when what came before has left
	waiting chan packet

	passed, dropped, held, doubled, refused atomic.Int64 // packets
	bytes                                   atomic.Int64 // of those that were held
}

type packet struct {
	due  time.Time
	data []byte
}

type netPort struct {
	name string
	ip   [4]byte
	ns   netns
	tun  *os.File
}

// networks numbers the networks of this process: each has a subnet of its own.
var networks atomic.Int32

// newNetwork makes a network for the time of a test.
func newNetwork(t testing.TB, seed uint64, ids ...string) *network {
	t.Helper()
	needsWorld(t)
	n := &network{ports: map[string]*netPort{}, links: map[[2]string]*link{}}
	subnet := byte(networks.Add(1))
	for i, id := range append([]string{clients}, ids...) {
		p := &netPort{name: id, ip: [4]byte{10, 77, subnet, byte(10 + i)}}
		n.ports[id] = p
		var err error
		if id == clients {
			err = p.open(fmt.Sprintf("rmq%d", subnet))
		} else {
			err = p.ns.within(func() error { return errors.Join(upLoopback(), p.open("eth0")) })
		}
		if err != nil {
			t.Fatalf("the network of %s: %v", id, err)
		}
	}
	stop := make(chan struct{})
	for from := range n.ports {
		for to, p := range n.ports {
			if from == to {
				continue
			}
			seed++
			l := &link{to: p, rnd: rand.New(rand.NewPCG(seed, 1)), waiting: make(chan packet, 4096)}
			n.links[[2]string{from, to}] = l
			n.done.Go(func() { l.deliver(stop) })
		}
	}
	for _, p := range n.ports {
		n.done.Go(func() { n.read(p) })
	}
	t.Cleanup(func() {
		close(stop)
		for _, p := range n.ports {
			p.tun.Close() // the device is gone with it
			if p.ns.f != nil {
				p.ns.f.Close() // read only
			}
		}
		n.done.Wait()
	})
	return n
}

// open makes the interface by which a place is joined to the network.
func (p *netPort) open(name string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("/dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return errors.Join(fmt.Errorf("TUNSETIFF: %w", err), unix.Close(fd))
	}
	p.tun = os.NewFile(uintptr(fd), "tun")
	return ifconfig(name, p.ip, [4]byte{255, 255, 255, 0}, 9000)
}

func (p *netPort) addr(port int) string {
	return fmt.Sprintf("%d.%d.%d.%d:%d", p.ip[0], p.ip[1], p.ip[2], p.ip[3], port)
}

// start starts a process at a place.
func (n *network) start(id string, cmd *exec.Cmd) error {
	return n.ports[id].ns.within(cmd.Start)
}

// read passes on what a place sends.
func (n *network) read(from *netPort) {
	buf := make([]byte, 1<<16)
	for {
		size, err := from.tun.Read(buf)
		if err != nil {
			return // closed
		}
		if p := buf[:size]; size >= 20 && p[0]>>4 == 4 {
			for _, to := range n.ports {
				if to.ip == [4]byte(p[16:20]) && to != from {
					n.link(from.name, to.name).send(p, from)
				}
			}
		}
	}
}

func (n *network) link(from, to string) *link { return n.links[[2]string{from, to}] }

// send does to a packet what the rule says.
func (l *link) send(p []byte, from *netPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.rule
	switch {
	case r.cut || r.drop > 0 && l.rnd.Float64() < r.drop:
		l.dropped.Add(1)
		return
	case r.refuse:
		if answer := resetOf(p); answer != nil {
			l.refused.Add(1)
			from.tun.Write(answer) // lost, as any packet may be
		}
		return
	case r == rule{} && len(l.waiting) == 0:
		l.passed.Add(1)
		l.to.tun.Write(p) // likewise
		return
	}
	copies := 1
	if r.double > 0 && l.rnd.Float64() < r.double {
		copies = 2
		l.doubled.Add(1)
	}
	now := time.Now()
	due := now.Add(r.delay)
	if r.jitter > 0 {
		due = due.Add(time.Duration(l.rnd.Int64N(int64(r.jitter))))
	}
	if r.rate > 0 {
		if l.free.Before(now) {
			l.free = now
		}
		l.free = l.free.Add(time.Duration(len(p)) * 8 * time.Second / time.Duration(r.rate))
		if l.free.Sub(now) > queueTime {
			l.free = l.free.Add(-time.Duration(len(p)) * 8 * time.Second / time.Duration(r.rate))
			l.dropped.Add(1)
			return
		}
		due = due.Add(l.free.Sub(now))
	}
	l.held.Add(1)
	l.bytes.Add(int64(len(p)))
	for range copies {
		pk := packet{due, append([]byte(nil), p...)}
		if r.reorder {
			time.AfterFunc(time.Until(due), func() { l.to.tun.Write(pk.data) }) // it may be closed by then
			continue
		}
		select {
		case l.waiting <- pk:
		default:
			l.dropped.Add(1) // as a full queue does
		}
	}
}

// deliver hands over packets that were held, in their order.
func (l *link) deliver(stop chan struct{}) {
	for {
		select {
		case p := <-l.waiting:
			select {
			case <-time.After(time.Until(p.due)):
				l.to.tun.Write(p.data) // lost, as any packet may be
			case <-stop:
				return
			}
		case <-stop:
			return
		}
	}
}

// set makes a rule for the packets from one place to another, and returns the
// link.
func (n *network) set(r rule, from, to string) *link {
	l := n.link(from, to)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rule = r
	return l
}

// between makes a rule for all packets between places of two sides, both ways.
func (n *network) between(r rule, as, bs []string) (links []*link) {
	for _, a := range as {
		for _, b := range bs {
			if a != b {
				links = append(links, n.set(r, a, b), n.set(r, b, a))
			}
		}
	}
	return links
}

// heal lets everything pass.
func (n *network) heal() {
	for _, l := range n.links {
		l.mu.Lock()
		l.rule = rule{}
		l.mu.Unlock()
	}
}

// resetOf returns the reset by which a host without such a connection answers a
// TCP packet; nil for another packet, or a reset.
//
//	IPv4 header 20 | source port 2 | target port 2 | seq 4 | ack 4 | offset, flags 2 | window 2 | checksum 2 | urgent 2
func resetOf(p []byte) []byte {
	const fin, syn, rst, ack = 1, 2, 4, 16
	head := int(p[0]&15) * 4
	if p[9] != unix.IPPROTO_TCP || len(p) < head+20 {
		return nil
	}
	tcp := p[head:]
	flags := tcp[13]
	if flags&rst != 0 {
		return nil
	}
	out := make([]byte, 40)
	out[0], out[3], out[8], out[9] = 0x45, 40, 64, unix.IPPROTO_TCP
	copy(out[12:16], p[16:20])
	copy(out[16:20], p[12:16])
	bigendian.BigEndian.PutUint16(out[10:], checksum(out[:20], 0))
	answer := out[20:]
	copy(answer[0:2], tcp[2:4])
	copy(answer[2:4], tcp[0:2])
	if flags&ack != 0 {
		copy(answer[4:8], tcp[8:12])
		answer[13] = rst
	} else {
		length := uint32(len(tcp) - int(tcp[12]>>4)*4)
		if flags&(syn|fin) != 0 {
			length++
		}
		bigendian.BigEndian.PutUint32(answer[8:], bigendian.BigEndian.Uint32(tcp[4:])+length)
		answer[13] = rst | ack
	}
	answer[12] = 5 << 4
	pseudo := uint32(unix.IPPROTO_TCP + 20)
	for i := 12; i < 20; i += 2 {
		pseudo += uint32(bigendian.BigEndian.Uint16(out[i:]))
	}
	bigendian.BigEndian.PutUint16(answer[16:], checksum(answer, pseudo))
	return out
}

// checksum is IP's and TCP's.
func checksum(b []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(bigendian.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
