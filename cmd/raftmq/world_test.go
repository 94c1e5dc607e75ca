package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// worldMark tells a test process that it has a world of its own.
const worldMark = "RAFTMQ_TEST_WORLD"

// enterWorld gives the tests a network and mounts of their own, if they may have
// that: they are root's. Whatever they do to either is gone with the process, and
// nobody else's ports are in the way. It is the same process, begun again: the
// thread that asked for them is the one that survives.
func enterWorld() error {
	if inWorld() {
		return upLoopback()
	}
	if os.Geteuid() != 0 || os.Getenv("RAFTMQ_INTEROP") != "" { // which fetches what it runs
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return nil // a container that may not: those who need it skip
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts of our own: %w", err)
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), worldMark+"=1"))
}

// inWorld says whether this process has a world of its own.
func inWorld() bool { return os.Getenv(worldMark) != "" }

// needsWorld skips a test that cuts links or mounts file systems where that may
// not be done.
func needsWorld(t testing.TB) {
	t.Helper()
	if !inWorld() {
		t.Skip("needs root, and leave to make network and mount namespaces")
	}
}

func upLoopback() error { return ifconfig("lo", [4]byte{127, 0, 0, 1}, [4]byte{255, 0, 0, 0}, 65536) }

// ifconfig gives a network interface of this thread's namespace its address.
func ifconfig(name string, addr, mask [4]byte, mtu uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	set := func(req uint, value func(*unix.Ifreq) error) error {
		ifr, err := unix.NewIfreq(name)
		if err == nil {
			err = value(ifr)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, req, ifr)
		}
		return err
	}
	err = errors.Join(
		set(unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr[:]) }),
		set(unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(mask[:]) }),
		set(unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil }),
		set(unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }),
	)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return nil
}

// netns is a network namespace, by an open file.
type netns struct{ f *os.File }

// within does something in a network namespace: in n or, if that has none yet,
// in a new one. The thread comes back: its death would be its children's.
func (n *netns) within(do func() error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const mine = "/proc/thread-self/ns/net"
	home, err := os.Open(mine)
	if err != nil {
		return err
	}
	defer home.Close()
	defer func() {
		if e := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); e != nil {
			panic(fmt.Sprintf("a thread is lost in another network: %v", e))
		}
	}()
	if n.f != nil {
		if err := unix.Setns(int(n.f.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return do()
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	if n.f, err = os.Open(mine); err != nil {
		return err
	}
	return do()
}
