package remoting

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// In these tests time is synctest's: a minute passes when every goroutine waits for it.

// pipeConn returns a Conn and its bare peer.
func pipeConn(cfg ConnConfig, h Handler) (*Conn, net.Conn, *closing) {
	nc, peer := net.Pipe()
	k := newClosing()
	cfg.OnClose = k.onClose
	return NewConn(nc, cfg, h), peer, k
}

func wantAfter(t *testing.T, start time.Time, min, max time.Duration) {
	t.Helper()
	if d := time.Since(start); d < min || d > max {
		t.Errorf("took %v, want %v to %v", d, min, max)
	}
}

// A half-open peer: neither bytes nor an end, ever.
func TestConnIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c, peer, k := pipeConn(ConnConfig{}, echo)
		defer peer.Close()
		if err := k.reason(t, c); !errors.Is(err, ErrIdle) {
			t.Errorf("closed because %v", err)
		}
		wantAfter(t, start, 120*time.Second, 120*time.Second)
	})
}

func TestConnIdleIsNeitherReadNorWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c, peer, k := pipeConn(ConnConfig{}, echo)
		defer peer.Close()
		frame, _ := AppendFrame(nil, &Command{Flag: FlagOneway})
		buf := make([]byte, 1000)
		for range 5 { // each keeps it open for another 120 s
			time.Sleep(119 * time.Second)
			peer.Write(frame)
			time.Sleep(119 * time.Second)
			if err := c.Notify(&Command{}); err != nil {
				t.Fatal(err)
			}
			peer.Read(buf)
		}
		if err := k.reason(t, c); !errors.Is(err, ErrIdle) {
			t.Errorf("closed because %v", err)
		}
		wantAfter(t, start, 10*119*time.Second+120*time.Second, 10*119*time.Second+120*time.Second)
	})
}

func TestConnNeverIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, k := pipeConn(ConnConfig{IdleTimeout: -1}, echo)
		time.Sleep(1000 * time.Hour)
		if err := c.Err(); err != nil {
			t.Errorf("closed because %v", err)
		}
		peer.Close()
		if err := k.reason(t, c); !errors.Is(err, io.EOF) {
			t.Errorf("closed because %v", err)
		}
	})
}

// A header that comes one byte at a time keeps no connection.
func TestConnSlowFrame(t *testing.T) {
	for _, dripping := range []int{1, 4, 30} { // bytes a second apart before it stops sending
		synctest.Test(t, func(t *testing.T) {
			c, peer, k := pipeConn(ConnConfig{}, echo)
			defer peer.Close()
			frame, _ := AppendFrame(nil, &Command{Ext: Fields{{"k", "a value to be long enough"}}})
			time.Sleep(100 * time.Second) // the idle deadline is near
			start := time.Now()
			for _, b := range frame[:dripping] {
				peer.Write([]byte{b})
				time.Sleep(time.Second)
			}
			if err := k.reason(t, c); !errors.Is(err, ErrSlowFrame) {
				t.Errorf("closed because %v", err)
			}
			wantAfter(t, start, 30*time.Second, 31*time.Second)
		})
	}
}

// A long frame may take its time, in proportion, and costs memory only as it arrives.
func TestConnSlowLongFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		served := make(chan int, 1)
		c, peer, k := pipeConn(ConnConfig{}, HandlerFunc(func(_ *Conn, req *Command) { served <- len(req.Body) }))
		defer peer.Close()
		frame, _ := AppendFrame(nil, &Command{Body: make([]byte, 4<<20)})
		for len(frame) > 0 {
			n := min(len(frame), 25_000) // 200 kbit/s
			peer.Write(frame[:n])
			frame = frame[n:]
			time.Sleep(time.Second)
		}
		if n := <-served; n != 4<<20 {
			t.Errorf("body of %d bytes", n)
		}
		// And one that claims 16 MiB and stops is dropped in the end.
		start := time.Now()
		peer.Write([]byte{0, 255, 255, 252, 0, 0, 0, 2, '{', '}'})
		if err := k.reason(t, c); !errors.Is(err, ErrSlowFrame) {
			t.Errorf("closed because %v", err)
		}
		wantAfter(t, start, 1000*time.Second, 1060*time.Second)
	})
}

// A peer that sends and never reads: its requests stop being read, and then it is dropped. Meanwhile others are served.
func TestConnPeerNeverReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		served := 0
		answer := make([]byte, 1000)
		c, peer, k := pipeConn(ConnConfig{MaxPending: 50_000}, HandlerFunc(func(_ *Conn, req *Command) {
			served++
			req.Responder().Respond(&Command{Body: answer})
		}))
		defer peer.Close()
		start := time.Now()
		go func() {
			frame, _ := AppendFrame(nil, &Command{})
			for {
				if _, err := peer.Write(frame); err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		if served < 40 || served > 60 {
			t.Errorf("%d requests were served before it noticed", served)
		}
		if n := c.Pending(); n < 50_000 || n > 60_000 {
			t.Errorf("%d bytes pending", n)
		}
		if err := k.reason(t, c); !errors.Is(err, ErrSlowPeer) {
			t.Errorf("closed because %v", err)
		}
		wantAfter(t, start, 30*time.Second, 60*time.Second)
		if n := c.Pending(); n != 0 {
			t.Errorf("%d bytes pending afterwards", n)
		}
	})
}

// A peer that reads slowly is waited for: as long as it takes something there is progress, and its requests go on when it has caught up.
func TestConnSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, k := pipeConn(ConnConfig{MaxPending: 10_000}, HandlerFunc(func(_ *Conn, req *Command) {
			req.Responder().Respond(&Command{Body: make([]byte, 2000)})
		}))
		const requests = 100
		go func() {
			for i := range requests {
				frame, _ := AppendFrame(nil, &Command{Opaque: int32(i)})
				peer.Write(frame)
			}
		}()
		in := &slowly{peer}
		for i := range requests {
			if resp := readFrame(t, in); resp.Opaque != int32(i) || len(resp.Body) != 2000 {
				t.Errorf("answer %d has opaque %d and %d bytes", i, resp.Opaque, len(resp.Body))
			}
		}
		if err := c.Err(); err != nil {
			t.Errorf("closed because %v", err)
		}
		peer.Close()
		k.reason(t, c)
	})
}

// slowly takes 500 bytes in 20 s.
type slowly struct{ r io.Reader }

func (s *slowly) Read(p []byte) (int, error) {
	time.Sleep(20 * time.Second)
	return s.r.Read(p[:min(len(p), 500)])
}

// Calls to a peer that does not read: those whose bytes never left are told apart.
func TestConnSentOrNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer, k := pipeConn(ConnConfig{MaxPending: 100_000}, nil)
		errs := make([]error, 3)
		call := func(i int) {
			if err := c.CallAsync(&Command{Body: make([]byte, 60_000)}, 0, func(_ *Command, err error) { errs[i] = err }); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		call(0)
		call(1)
		io.ReadFull(peer, make([]byte, 100)) // of the first
		if err := c.CallAsync(&Command{}, 0, nil); !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrFull) {
			t.Errorf("CallAsync on a full connection: %v", err)
		}
		if err := c.Notify(&Command{}); !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrFull) {
			t.Errorf("Notify on a full connection: %v", err)
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := c.Call(ctx, &Command{}); !errors.Is(err, ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Call on a full connection: %v", err)
		}
		wantAfter(t, start, 5*time.Second, 5*time.Second)
		peer.Close()
		k.reason(t, c)
		if !errors.Is(errs[0], ErrLimbo) || errors.Is(errs[0], ErrNotSent) {
			t.Errorf("partly written: %v", errs[0])
		}
		if !errors.Is(errs[1], ErrNotSent) || errors.Is(errs[1], ErrLimbo) {
			t.Errorf("never written: %v", errs[1])
		}
	})
}

func TestConnCallTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := make(chan Responder, 5)
		a, b := net.Pipe()
		server := NewConn(a, ConnConfig{}, HandlerFunc(func(_ *Conn, req *Command) { held <- req.Responder() }))
		client := NewConn(b, ConnConfig{}, nil)
		defer server.Close()
		defer client.Close()

		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := client.Call(ctx, &Command{}); !errors.Is(err, ErrLimbo) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Call: %v", err)
		}
		wantAfter(t, start, 3*time.Second, 3*time.Second)
		(<-held).Respond(&Command{}) // too late, and harmless

		result := make(chan error)
		if err := client.CallAsync(&Command{}, 3*time.Second, func(_ *Command, err error) { result <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-result; !errors.Is(err, ErrLimbo) || !errors.Is(err, ErrTimeout) {
			t.Errorf("CallAsync: %v", err)
		}
		wantAfter(t, start, 6*time.Second, 6*time.Second)
		(<-held).Respond(&Command{})

		if err := client.CallAsync(&Command{}, 3*time.Second, func(_ *Command, err error) { result <- err }); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		(<-held).Respond(&Command{})
		if err := <-result; err != nil {
			t.Errorf("CallAsync in time: %v", err)
		}
		time.Sleep(time.Minute) // its timer is gone
		if _, err := client.Call(ctx, &Command{}); !errors.Is(err, ErrNotSent) {
			t.Errorf("Call with a dead context: %v", err)
		}
	})
}

func TestConnDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := make(chan Responder, 5)
		a, b := net.Pipe()
		server := NewConn(a, ConnConfig{DrainFields: Fields{{Key: "nothing", Value: "done"}}}, HandlerFunc(func(_ *Conn, req *Command) { held <- req.Responder() }))
		client := NewConn(b, ConnConfig{}, nil)
		defer client.Close()
		first := make(chan *Command, 1)
		client.CallAsync(&Command{}, 0, func(resp *Command, err error) { first <- resp })
		synctest.Wait()

		drained := make(chan error)
		go func() { drained <- server.Drain(t.Context()) }()
		synctest.Wait()
		for version, want := range map[int32]int32{477: GoAway, 475: ServiceNotAvailable, 317: ServiceNotAvailable} {
			if resp := mustCall(t, client, &Command{Version: version}); resp.Code != want || resp.Ext.Get("nothing") != "done" {
				t.Errorf("a request of version %d while draining is answered %v, with %v", version, resp.Err(), resp.Ext)
			}
		}
		if _, err := server.Call(t.Context(), &Command{}); !errors.Is(err, ErrNotSent) {
			t.Errorf("a call of the draining side: %v", err)
		}
		(<-held).Respond(&Command{Remark: "in time"})
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if resp := <-first; resp == nil || resp.Remark != "in time" {
			t.Errorf("the request in flight was answered %+v", resp)
		}
	})
}

// Who goes on asking is told to go: a request that crosses the closing would be in
// limbo.
func TestConnDrainRefusesWhileAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		server := NewConn(a, ConnConfig{}, HandlerFunc(func(_ *Conn, req *Command) { req.Responder().Respond(&Command{}) }))
		client := NewConn(b, ConnConfig{}, nil)
		defer client.Close()
		mustCall(t, client, &Command{})
		drained := make(chan error)
		go func() { drained <- server.Drain(t.Context()) }()
		for range 10 {
			time.Sleep(calmTime * 2 / 3)
			if resp := mustCall(t, client, &Command{Version: 477}); resp.Code != GoAway {
				t.Fatalf("answered %v", resp.Err())
			}
		}
		last := time.Now()
		if err := <-drained; err != nil {
			t.Error(err)
		}
		wantAfter(t, last, calmTime, calmTime+lingerTime)
	})
}

func TestConnDrainTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		server := NewConn(a, ConnConfig{}, HandlerFunc(func(*Conn, *Command) {}))
		client := NewConn(b, ConnConfig{}, nil)
		defer client.Close()
		result := make(chan error, 1)
		client.CallAsync(&Command{}, 0, func(_ *Command, err error) { result <- err })
		synctest.Wait()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		if err := server.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain: %v", err)
		}
		wantAfter(t, start, 7*time.Second, 7*time.Second)
		if err := <-result; !errors.Is(err, ErrLimbo) {
			t.Errorf("the call ended with %v", err)
		}
	})
}

// listener gives out what it is told.
type listener struct {
	next   chan any // error or net.Conn
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case x := <-l.next:
		if err, ok := x.(error); ok {
			return nil, err
		}
		return x.(net.Conn), nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

func TestServerOutOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reports []error
		s := &Server{Handler: echo, OnAccept: func(err error) { reports = append(reports, err) }}
		l := &listener{make(chan any), make(chan struct{})}
		served := make(chan error)
		go func() { served <- s.Serve(l) }()
		start := time.Now()
		for range 12 {
			l.next <- &net.OpError{Op: "accept", Err: syscall.EMFILE}
		}
		a, b := net.Pipe()
		l.next <- a
		wantAfter(t, start, 4*time.Second, 6*time.Second) // 5 ms doubling to 1 s
		client := NewConn(b, ConnConfig{}, nil)
		mustCall(t, client, &Command{})
		if n := len(reports); n < 10 || reports[n-1] != nil || !errors.Is(reports[0], syscall.EMFILE) {
			t.Errorf("reports %v", reports)
		}
		if n := len(s.Conns()); n != 1 {
			t.Errorf("%d connections", n)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
		<-client.Done()
		if n := len(s.Conns()); n != 0 {
			t.Errorf("%d connections after Shutdown", n)
		}
		if err := s.Serve(&listener{nil, make(chan struct{})}); !errors.Is(err, ErrClosed) {
			t.Errorf("Serve after Shutdown: %v", err)
		}
	})
}

func TestServerShutdownOverTCP(t *testing.T) {
	// A client whose requests never stop: shutting down must still end, and every answer that was promised arrive.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Handler: echo}
	served := make(chan error)
	go func() { served <- s.Serve(l) }()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := NewConn(nc, ConnConfig{}, nil)
	answered := make(chan error)
	started := make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			resp, err := client.Call(context.Background(), &Command{Body: []byte(fmt.Sprint(i))})
			if err != nil || resp.Code == GoAway {
				answered <- err
				return
			}
			if resp.Code != Success || !bytes.Equal(resp.Body, []byte(fmt.Sprint(i))) {
				answered <- fmt.Errorf("answer %d is %v, %q", i, resp.Err(), resp.Body)
				return
			}
			if i == 100 {
				close(started)
			}
		}
	}()
	<-started
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-served
	// A request on its way when the last answer had left gets none; it is in limbo, or was not sent.
	if err := <-answered; err != nil && !errors.Is(err, ErrLimbo) && !errors.Is(err, ErrNotSent) {
		t.Error(err)
	}
	client.Close()
}
