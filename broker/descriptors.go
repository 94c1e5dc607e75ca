package broker

import (
	"net"

	"golang.org/x/sys/unix"
)

// spareDescriptors is the share of the process's descriptors, one in so many,
// that connections of clients leave free: a replica that cannot open a file of
// its log or its queues stops for good.
const spareDescriptors = 4

// sparesFiles says whether an accepted connection leaves descriptors enough for
// files. The kernel gives out the lowest number that is free, so a high one says
// that few are left. The limit is asked for each time: it can be changed from
// outside.
func sparesFiles(c *net.TCPConn) bool {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return true
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	spare := false
	err = raw.Control(func(fd uintptr) { spare = uint64(fd) < limit.Cur-limit.Cur/spareDescriptors })
	return err == nil && spare
}
