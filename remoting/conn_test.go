package remoting

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// closing is a ConnConfig.OnClose that keeps the reason.
type closing struct {
	reasons chan error
}

func newClosing() *closing { return &closing{make(chan error, 2)} }

func (k *closing) onClose(_ *Conn, err error) { k.reasons <- err }

// reason waits for the end of the connection, and checks that it is told once.
func (k *closing) reason(t testing.TB, c *Conn) error {
	t.Helper()
	<-c.Done()
	err := <-k.reasons
	select {
	case again := <-k.reasons:
		t.Errorf("OnClose called again: %v", again)
	default:
	}
	return err
}

// tcpPair returns the two ends of a loopback connection.
func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// connPair returns two connected Conns that are closed when the test ends.
func connPair(t testing.TB, a, b ConnConfig, ha, hb Handler) (*Conn, *Conn) {
	t.Helper()
	na, nb := tcpPair(t)
	ca, cb := NewConn(na, a, ha), NewConn(nb, b, hb)
	t.Cleanup(func() { ca.Close(); cb.Close() })
	return ca, cb
}

// echo answers with the request's body and fields.
var echo = HandlerFunc(func(_ *Conn, req *Command) {
	req.Responder().Respond(&Command{Ext: req.Ext, Body: req.Body})
})

func mustCall(t testing.TB, c *Conn, req *Command) *Command {
	t.Helper()
	resp, err := c.Call(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestConnBothDirections(t *testing.T) {
	for _, s := range []Serialize{JSON, Binary} {
		a, b := connPair(t, ConnConfig{Serialize: s}, ConnConfig{}, echo, echo)
		var wg sync.WaitGroup
		for _, c := range []*Conn{a, b} {
			for g := range 8 {
				wg.Go(func() {
					for i := range 25 {
						// Bodies on both sides of the read buffer's sizes.
						body := bytes.Repeat([]byte{byte(i)}, 32*i*i*g)
						req := &Command{Code: 9, Ext: Fields{{"n", strconv.Itoa(i)}, {"s", "\x01\"\\\x02值"}}, Body: body}
						resp, err := c.Call(t.Context(), req)
						if err != nil || resp.Ext.Get("n") != strconv.Itoa(i) || resp.Ext.Get("s") != "\x01\"\\\x02值" || !bytes.Equal(resp.Body, body) {
							t.Errorf("call %d: %v %.300v", i, err, resp)
							return
						}
					}
				})
			}
		}
		wg.Wait()
	}
}

func TestConnAnswersOutOfOrder(t *testing.T) {
	const n = 100
	var mu sync.Mutex
	var held []Responder
	a, _ := connPair(t, ConnConfig{}, ConnConfig{}, nil, HandlerFunc(func(_ *Conn, req *Command) {
		mu.Lock()
		defer mu.Unlock()
		if held = append(held, req.Responder()); len(held) < n {
			return
		}
		rand.Shuffle(n, func(i, j int) { held[i], held[j] = held[j], held[i] })
		for _, r := range held {
			go r.Respond(&Command{Code: r.opaque})
		}
	}))
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if resp, err := a.Call(t.Context(), &Command{}); err != nil || resp.Code != resp.Opaque {
				t.Errorf("%v: answer to %v has opaque %v", err, resp.Code, resp.Opaque)
			}
		})
	}
	wg.Wait()
}

func TestConnAnswersOnce(t *testing.T) {
	a, _ := connPair(t, ConnConfig{}, ConnConfig{}, nil, HandlerFunc(func(_ *Conn, req *Command) {
		r := req.Responder()
		released := 0
		r.Respond(&Command{Remark: "first"})
		r.RespondSegments(&Command{Remark: "second"}, nil, func() { released++ })
		if released != 1 {
			t.Errorf("the second answer was released %d times", released)
		}
	}))
	for range 3 {
		if resp := mustCall(t, a, &Command{}); resp.Remark != "first" {
			t.Errorf("answered %q", resp.Remark)
		}
	}
}

func TestResponderError(t *testing.T) {
	var answer error
	a, _ := connPair(t, ConnConfig{}, ConnConfig{}, nil, HandlerFunc(func(_ *Conn, req *Command) { req.Responder().Error(answer) }))
	for _, tt := range []struct {
		err    error
		code   int32
		remark string
	}{
		{Errorf(TopicNotExist, "no topic T"), TopicNotExist, "no topic T"},
		{fmt.Errorf("while sending: %w", Errorf(NoPermission, "no")), NoPermission, "while sending: NO_PERMISSION (16): no"},
		{new(TopicRequest).Decode(&Command{}), InvalidParameter, "invalid header field: topic is missing"},
		{CheckTopic("a b"), InvalidParameter, `invalid name: topic "a b": only letters, digits, _, -, % and | are allowed`},
		{errors.New("disk"), SystemError, "disk"},
	} {
		answer = tt.err
		if resp := mustCall(t, a, &Command{}); resp.Code != tt.code || resp.Remark != tt.remark {
			t.Errorf("%v is answered %d %q", tt.err, resp.Code, resp.Remark)
		}
	}
}

func TestConnOneway(t *testing.T) {
	served := make(chan string, 10)
	nc, peer := tcpPair(t)
	k := newClosing()
	c := NewConn(nc, ConnConfig{OnClose: k.onClose}, HandlerFunc(func(_ *Conn, req *Command) {
		released := make(chan struct{})
		req.Responder().RespondSegments(&Command{Remark: req.Ext.Get("n")}, nil, func() { close(released) })
		<-released // at once, if the answer is dropped
		served <- req.Ext.Get("n")
	}))
	defer c.Close()
	// With the flag nothing comes back; a client that does not set it gets an answer, and must be able to ignore it.
	for i, flag := range []int32{FlagOneway, 0} {
		frame, err := AppendFrame(nil, &Command{Code: 15, Flag: flag, Opaque: int32(i), Ext: Fields{{"n", strconv.Itoa(i)}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := peer.Write(frame); err != nil {
			t.Fatal(err)
		}
	}
	resp := readFrame(t, peer)
	if resp.Opaque != 1 || resp.Remark != "1" {
		t.Errorf("the first answer is %+v", resp)
	}
	if a, b := <-served, <-served; a != "0" || b != "1" {
		t.Errorf("served %s, %s", a, b)
	}
	// An answer to nothing is dropped.
	frame, _ := AppendFrame(nil, &Command{Flag: FlagResponse, Opaque: 77})
	peer.Write(frame)
	frame, _ = AppendFrame(nil, &Command{Code: 15, Opaque: 3, Ext: Fields{{"n", "3"}}})
	peer.Write(frame)
	if resp := readFrame(t, peer); resp.Opaque != 3 {
		t.Errorf("answer %+v", resp)
	}
	peer.Close()
	if err := k.reason(t, c); !errors.Is(err, io.EOF) {
		t.Errorf("closed because %v", err)
	}
}

// readFrame reads one frame by hand.
func readFrame(t testing.TB, r io.Reader) *Command {
	t.Helper()
	var word [4]byte
	if _, err := io.ReadFull(r, word[:]); err != nil {
		t.Fatal(err)
	}
	frame := append(word[:], make([]byte, getUint32(word[:]))...)
	if _, err := io.ReadFull(r, frame[4:]); err != nil {
		t.Fatal(err)
	}
	var c Command
	if err := DecodeFrame(frame, &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

func TestConnNotify(t *testing.T) {
	got := make(chan string, 1)
	a, b := connPair(t, ConnConfig{}, ConnConfig{}, HandlerFunc(func(_ *Conn, req *Command) {
		if !req.IsOneway() {
			t.Error("not oneway")
		}
		got <- req.Ext.Get("consumerGroup")
	}), nil)
	if err := b.Notify(&Command{Code: NotifyConsumerIDsChanged, Header: &ConsumerGroupRequest{"g"}}); err != nil {
		t.Fatal(err)
	}
	if g := <-got; g != "g" {
		t.Errorf("group %q", g)
	}
	a.Close()
	<-b.Done()
	if err := b.Notify(&Command{}); !errors.Is(err, ErrNotSent) {
		t.Errorf("on a closed connection: %v", err)
	}
}

func TestConnWithoutHandler(t *testing.T) {
	a, _ := connPair(t, ConnConfig{}, ConnConfig{}, nil, nil)
	resp := mustCall(t, a, &Command{Code: 9999})
	if !errors.Is(resp.Err(), &Error{Code: RequestCodeNotSupported}) || !strings.Contains(resp.Remark, "9999") {
		t.Errorf("answer %v", resp.Err())
	}
}

func TestConnMaxInFlight(t *testing.T) {
	held := make(chan Responder, 10)
	a, _ := connPair(t, ConnConfig{}, ConnConfig{MaxInFlight: 3}, nil, HandlerFunc(func(_ *Conn, req *Command) { held <- req.Responder() }))
	answers := make(chan error, 3)
	for range 3 {
		if err := a.CallAsync(&Command{}, 0, func(resp *Command, err error) { answers <- errors.Join(err, resp.Err()) }); err != nil {
			t.Fatal(err)
		}
	}
	resp := mustCall(t, a, &Command{})
	if resp.Code != SystemBusy || !strings.HasPrefix(resp.Remark, "[OVERLOAD]") {
		t.Errorf("the fourth request is answered %v", resp.Err())
	}
	for range 3 {
		(<-held).Respond(&Command{})
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	// Room again.
	done := make(chan *Command, 1)
	a.CallAsync(&Command{}, 0, func(resp *Command, _ error) { done <- resp })
	(<-held).Respond(&Command{})
	if resp := <-done; resp == nil || resp.Code != Success {
		t.Errorf("answer %+v", resp)
	}
}

func TestConnSegments(t *testing.T) {
	var released atomic.Int32
	whole := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	a, _ := connPair(t, ConnConfig{}, ConnConfig{}, nil, HandlerFunc(func(_ *Conn, req *Command) {
		n, _ := strconv.Atoi(req.Ext.Get("n"))
		var segments [][]byte
		for rest := whole[:n]; len(rest) > 0; {
			m := min(len(rest), n/5+1)
			segments, rest = append(segments, rest[:m], nil), rest[m:]
		}
		req.Responder().RespondSegments(&Command{Body: []byte("head")}, segments, func() { released.Add(1) })
	}))
	sizes := []int{0, 1, 100, 5000, 70000, len(whole)}
	var wg sync.WaitGroup
	for range 4 {
		for _, n := range sizes {
			wg.Go(func() {
				resp, err := a.Call(t.Context(), &Command{Ext: Fields{{"n", strconv.Itoa(n)}}})
				if err != nil || !bytes.Equal(resp.Body, append([]byte("head"), whole[:n]...)) {
					t.Errorf("%d bytes: %v", n, err)
				}
			})
		}
	}
	wg.Wait()
	a.Close()
	if n := released.Load(); n != int32(4*len(sizes)) {
		t.Errorf("released %d of %d", n, 4*len(sizes))
	}
}

func TestConnSegmentsReleasedWhenLost(t *testing.T) {
	held := make(chan Responder, 1)
	a, b := connPair(t, ConnConfig{}, ConnConfig{MaxFrame: 4096}, nil, HandlerFunc(func(_ *Conn, req *Command) { held <- req.Responder() }))
	released := make(chan struct{}, 1)
	release := func() { released <- struct{}{} }

	// Too long for a frame: the caller learns so.
	answer := make(chan *Command, 1)
	a.CallAsync(&Command{}, 0, func(resp *Command, _ error) { answer <- resp })
	(<-held).RespondSegments(&Command{}, [][]byte{make([]byte, 5000)}, release)
	<-released
	if resp := <-answer; resp.Code != SystemError || !strings.Contains(resp.Remark, "over the limit") {
		t.Errorf("answer %+v", resp)
	}
	// Nobody there any more.
	a.CallAsync(&Command{}, 0, func(*Command, error) {})
	r := <-held
	b.Close()
	r.RespondSegments(&Command{}, [][]byte{{1}}, release)
	<-released
	Responder{}.RespondSegments(&Command{}, nil, release)
	<-released
}

func TestConnRequestTooLarge(t *testing.T) {
	a, _ := connPair(t, ConnConfig{MaxFrame: 1000}, ConnConfig{}, nil, echo)
	if _, err := a.Call(t.Context(), &Command{Body: make([]byte, 1000)}); !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrFrameTooLarge) {
		t.Errorf("call: %v", err)
	}
	if resp := mustCall(t, a, &Command{Body: []byte("x")}); string(resp.Body) != "x" {
		t.Errorf("the connection is of no use afterwards: %+v", resp)
	}
}

// TestConnProtocolErrors sends what is no frame: the connection closes, saying why, and others live.
func TestConnProtocolErrors(t *testing.T) {
	frame := func(total, word uint32, rest string) string {
		return string(appendUint32(appendUint32(nil, total), word)) + rest
	}
	for _, tt := range []struct {
		name, bytes string
		want        error
		text        string
	}{
		{"length 0", frame(0, 0, ""), ErrFrame, "no room"},
		{"length 3", frame(3, 0, ""), ErrFrame, "no room"},
		{"length negative", frame(1<<32-1, 0, ""), ErrFrameTooLarge, "4294967299"},
		{"length 2^31-1", frame(1<<31-1, 0, ""), ErrFrameTooLarge, "limit is 16777216"},
		{"length just over the limit", frame(16<<20-3, 0, ""), ErrFrameTooLarge, "16777217"},
		{"shorter than its header", frame(8, 5, "{}{}"), ErrFrame, "header of 5"},
		{"unknown encoding", frame(6, 2<<24|2, "{}"), ErrFrame, "encoding 2"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01", ErrFrameTooLarge, "TLS"},
		{"PROXY", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", ErrFrameTooLarge, "PROXY"},
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", ErrFrameTooLarge, "HTTP"},
		{"JSON broken", frame(8, 4, "{x:}"), ErrHeader, "JSON at byte"},
		{"JSON empty", frame(4, 0, ""), ErrHeader, "expected '{'"},
		{"binary short", frame(6, 1<<24|2, "ab"), ErrHeader, "2 bytes"},
		{"cut off", frame(100, 50, "{"), io.ErrUnexpectedEOF, "inside a frame"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nc, peer := tcpPair(t)
			k := newClosing()
			c := NewConn(nc, ConnConfig{OnClose: k.onClose}, echo)
			// A good request before it is still served.
			good, _ := AppendFrame(nil, &Command{Code: 1, Opaque: 5})
			if _, err := peer.Write(good); err != nil {
				t.Fatal(err)
			}
			if resp := readFrame(t, peer); resp.Opaque != 5 {
				t.Errorf("answer %+v", resp)
			}
			if _, err := peer.Write([]byte(tt.bytes)); err != nil {
				t.Fatal(err)
			}
			if errors.Is(tt.want, io.ErrUnexpectedEOF) {
				peer.(*net.TCPConn).CloseWrite()
			}
			if err := k.reason(t, c); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("closed because %v", err)
			}
			if err := c.Err(); !errors.Is(err, tt.want) {
				t.Errorf("Err is %v", err)
			}
			peer.Close()
		})
	}
}

func TestConnResetInsideFrame(t *testing.T) {
	nc, peer := tcpPair(t)
	k := newClosing()
	c := NewConn(nc, ConnConfig{OnClose: k.onClose}, echo)
	result := make(chan error, 1)
	if err := c.CallAsync(&Command{}, 0, func(_ *Command, err error) { result <- err }); err != nil {
		t.Fatal(err)
	}
	readFrame(t, peer)
	if _, err := peer.Write([]byte{0, 0, 1, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	peer.(*net.TCPConn).SetLinger(0)
	peer.Close()
	if err := <-result; !errors.Is(err, ErrLimbo) || errors.Is(err, ErrNotSent) {
		t.Errorf("the call ended with %v", err)
	}
	// Whether the six bytes were read before the reset is chance; what counts is that it ended and said so.
	if err := k.reason(t, c); err == nil {
		t.Error("closed without a reason")
	}
}

func TestConnCloseWhileCallsInFlight(t *testing.T) {
	var arrived sync.WaitGroup
	arrived.Add(50)
	a, b := connPair(t, ConnConfig{}, ConnConfig{}, nil, HandlerFunc(func(*Conn, *Command) { arrived.Done() }))
	for _, end := range []*Conn{a, b} { // either side; the second time all are refused
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				_, err := a.Call(t.Context(), &Command{Ext: Fields{{"n", strconv.Itoa(i)}}})
				want := ErrLimbo
				if end == b {
					want = ErrNotSent
				}
				if !errors.Is(err, want) || !errors.Is(err, ErrClosed) {
					t.Errorf("call ended with %v", err)
				}
			})
		}
		arrived.Wait()
		end.Close()
		wg.Wait()
	}
}

func TestConnCloseIsSafeFromEverywhere(t *testing.T) {
	a, b := connPair(t, ConnConfig{}, ConnConfig{}, nil, HandlerFunc(func(c *Conn, req *Command) {
		c.Fail(errors.New("enough"))
		req.Responder().Respond(&Command{})
	}))
	if _, err := a.Call(t.Context(), &Command{}); !errors.Is(err, ErrLimbo) {
		t.Errorf("call ended with %v", err)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { a.Close(); b.Close() })
	}
	wg.Wait()
	if err := b.Err(); err == nil || err.Error() != "enough" {
		t.Errorf("reason %v", err)
	}
}

// TestConnStress mixes everything, under the race detector, with connections that end at any moment.
func TestConnStress(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("RAFTMQ_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("RAFTMQ_SEED=%d", seed)
	rounds := 6
	if os.Getenv("RAFTMQ_LONG") != "" {
		rounds = 500
	}
	for round := range rounds {
		rng := rand.New(rand.NewPCG(seed, uint64(round)))
		cfg := ConnConfig{MaxPending: 1 << rng.IntN(20), MaxInFlight: 1 + rng.IntN(100), Serialize: Serialize(rng.IntN(2))}
		var unreleased sync.WaitGroup // ends only if every answer is released, also those given too late
		serve := HandlerFunc(func(_ *Conn, req *Command) {
			r, body := req.Responder(), bytes.Clone(req.Body)
			unreleased.Add(1)
			answer := func() {
				r.RespondSegments(&Command{}, [][]byte{body[:len(body)/2], body[len(body)/2:]}, unreleased.Done)
			}
			if len(body)%3 == 0 {
				go answer()
			} else {
				answer()
			}
		})
		a, b := connPair(t, cfg, cfg, serve, serve)
		stop := int64(rng.IntN(2000))
		var calls atomic.Int64
		var wg sync.WaitGroup
		for g := range 16 {
			c := []*Conn{a, b}[g%2]
			grng := rand.New(rand.NewPCG(seed, uint64(round*100+g)))
			wg.Go(func() {
				for {
					body := make([]byte, grng.IntN(1<<grng.IntN(16)))
					for i := range body {
						body[i] = byte(len(body) + i)
					}
					resp, err := c.Call(context.Background(), &Command{Code: 1, Body: body})
					if err != nil {
						if errors.Is(err, ErrNotSent) == errors.Is(err, ErrLimbo) {
							t.Errorf("neither or both: %v", err)
						}
						return
					}
					if resp.Code == Success && !bytes.Equal(resp.Body, body) || resp.Code != Success && resp.Code != SystemBusy {
						t.Errorf("wrong answer %v", resp.Err())
						return
					}
					if calls.Add(1) == stop {
						go c.Close()
					}
					if calls.Load() > 2500 {
						return
					}
				}
			})
		}
		wg.Wait()
		a.Close()
		b.Close()
		unreleased.Wait()
	}
}

func ExampleConn() {
	client, server := net.Pipe()
	s := NewConn(server, ConnConfig{}, HandlerFunc(func(_ *Conn, req *Command) {
		req.Responder().Respond(&Command{Header: &OffsetResponse{Offset: 42}})
	}))
	c := NewConn(client, ConnConfig{}, nil)
	defer s.Close()
	defer c.Close()

	resp, err := c.Call(context.Background(), &Command{Code: GetMaxOffset, Header: &QueueRequest{Topic: "T", QueueID: 3}})
	if err != nil {
		fmt.Println(errors.Is(err, ErrNotSent), err)
		return
	}
	var h OffsetResponse
	if err := h.Decode(resp); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(h.Offset)
	// Output: 42
}
