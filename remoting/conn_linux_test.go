package remoting

import (
	"errors"
	"syscall"
	"testing"
)

// TestConnNeverTouchesSegments answers with a segment in memory that nobody may read: touching it would end the process, while the kernel,
// handed it by writev, says EFAULT. A mapped file's page whose disk fails behaves like this.
func TestConnNeverTouchesSegments(t *testing.T) {
	forbidden, err := syscall.Mmap(-1, 0, 1<<16, syscall.PROT_NONE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(forbidden)
	nc, peer := tcpPair(t)
	k := newClosing()
	released := make(chan struct{})
	server := NewConn(nc, ConnConfig{OnClose: k.onClose}, HandlerFunc(func(_ *Conn, req *Command) {
		req.Responder().RespondSegments(&Command{}, [][]byte{forbidden[:5000], forbidden[5000:]}, func() { close(released) })
	}))
	client := NewConn(peer, ConnConfig{}, nil)
	defer client.Close()
	if _, err := client.Call(t.Context(), &Command{}); !errors.Is(err, ErrLimbo) {
		t.Errorf("the call ended with %v", err)
	}
	<-released
	if err := k.reason(t, server); !errors.Is(err, syscall.EFAULT) {
		t.Errorf("closed because %v", err)
	}
}
