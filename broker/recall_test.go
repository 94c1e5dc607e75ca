package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/raftmq/raftmq/client"
	"github.com/raftmq/raftmq/remoting"
)

func TestTIMER07Recall(t *testing.T) {
	t.Parallel()
	var clock testClock
	cl := startCluster(t, 3, clock.set)
	b := cl.leader(t)
	c := dial(t, b)
	for _, topic := range []string{"T", "U"} {
		c.topic(topic, 1)
	}
	// One id in two topics, and as a key of another message.
	recalled := c.mustSend(timed("T", 0, time.Minute, remoting.PropUniqKey, "u"), "recalled").RecallHandle
	c.mustSend(timed("U", 0, time.Minute, remoting.PropUniqKey, "u"), "same id")
	c.mustSend(timed("T", 0, time.Minute, remoting.PropUniqKey, "other", remoting.PropKeys, "u"), "same key")
	late := c.mustSend(timed("T", 0, time.Minute, remoting.PropUniqKey, "late"), "late").RecallHandle
	now := b.group.LogTime()

	h, err := remoting.ParseRecallHandle(recalled)
	if err != nil || h.Topic != "T" || h.BrokerName != b.name || h.UniqKey != "u" || h.Due < now+50_000 || h.Due > now+60_000 {
		t.Errorf("handle %+v, %v", h, err)
	}
	changed := func(f func(*remoting.RecallHandle)) string {
		h := h
		f(&h)
		return h.String()
	}
	for what, x := range map[string]struct {
		topic, handle string
		code          int32
	}{
		"no base64":       {"T", "!", remoting.IllegalOperation},
		"no handle":       {"T", "djE=", remoting.IllegalOperation},
		"another topic":   {"U", recalled, remoting.IllegalOperation},
		"another broker":  {"T", changed(func(h *remoting.RecallHandle) { h.BrokerName = "broker-b" }), remoting.IllegalOperation},
		"another message": {"T", changed(func(h *remoting.RecallHandle) { h.UniqKey = "v" }), remoting.IllegalOperation},
		"a key of one":    {"T", changed(func(h *remoting.RecallHandle) { h.UniqKey = "k" }), remoting.IllegalOperation},
		"a time past":     {"T", changed(func(h *remoting.RecallHandle) { h.Due = now }), remoting.IllegalOperation},
		"no topic":        {"V", recalled, remoting.TopicNotExist},
		"a topic's own":   {remoting.TopicTimer, changed(func(h *remoting.RecallHandle) { h.Topic = remoting.TopicTimer }), remoting.IllegalOperation},
	} {
		if _, err := c.ask(remoting.RecallMessage, recallOf(x.topic, x.handle)); codeOf(err) != x.code {
			t.Errorf("%s: %v, want code %d", what, err, x.code)
		}
	}
	if got := waitingIn(b); got != 4 {
		t.Fatalf("%d messages wait", got)
	}
	b = cl.transfer(t) // the handle is good at any leader
	c = dial(t, b)
	var r remoting.RecallMessageResponse
	if err := r.Decode(c.must(remoting.RecallMessage, recallOf("T", recalled))); err != nil || r.MsgID != "u" {
		t.Errorf("%+v, %v", r, err)
	}
	_, err = c.ask(remoting.RecallMessage, recallOf("T", recalled)) // once more
	wantCode(t, err, remoting.IllegalOperation)
	clock.forward(time.Minute)
	c.arrived("U", 0, 1)
	if got := bodiesOf(c.arrived("T", 0, 2)); !slices.Contains(got, "same key") || !slices.Contains(got, "late") {
		t.Errorf("%q", got)
	}
	_, err = c.ask(remoting.RecallMessage, recallOf("T", late)) // delivered
	wantCode(t, err, remoting.IllegalOperation)
	for _, b := range cl.followers(t) {
		_, err := dial(t, b).ask(remoting.RecallMessage, recallOf("T", recalled)) // passed on
		wantCode(t, err, remoting.IllegalOperation)
	}
}

func TestTIMER07RecallIsOff(t *testing.T) {
	t.Parallel()
	no := false
	cl := startCluster(t, 1, func(c *Config) { c.RecallMessageEnable = &no })
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	r := c.mustSend(timed("T", 0, time.Second), "m")
	_, err := c.ask(remoting.RecallMessage, recallOf("T", r.RecallHandle))
	wantCode(t, err, remoting.NoPermission)
	c.arrived("T", 0, 1)
}

// A recall and a delivery at one time: one of them happens.
func TestTIMER07RecallWhenItIsDue(t *testing.T) {
	t.Parallel()
	b := startCluster(t, 1, nil).leader(t)
	c := dial(t, b)
	const topic = "T"
	c.topic(topic, 1)
	var handles []string
	for i := range 50 {
		handles = append(handles, c.mustSend(timed(topic, 0, 500*time.Millisecond), fmt.Sprint(i)).RecallHandle)
	}
	var want []string
	for i, handle := range handles {
		switch _, err := c.ask(remoting.RecallMessage, recallOf(topic, handle)); codeOf(err) {
		case remoting.Success:
		case remoting.IllegalOperation:
			want = append(want, fmt.Sprint(i))
		default:
			t.Fatal(err)
		}
	}
	eventually(t, "all is settled", func() bool { return waitingIn(b) == 0 })
	got := bodiesOf(c.all(topic, 0))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("came: %q, were not recalled: %q", got, want)
	}
}

// Our own client: by a span and by a time, and taken back.
func TestTIMER07OurClient(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 3, nil)
	c := dial(t, cl.leader(t))
	c.topic("T", 1)
	ours := cl.ours(t, client.Config{})
	p, err := ours.NewProducer(client.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a route", func() bool { q, err := p.Queues(t.Context(), "T"); return err == nil && len(q) > 0 })
	send := func(m *client.Message) string {
		t.Helper()
		m.Topic = "T"
		res, err := p.Send(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		return res.RecallHandle
	}
	at := time.Now().Add(2 * time.Second)
	handle := send(&client.Message{Body: []byte("recalled"), DeliverAfter: time.Second})
	send(&client.Message{Body: []byte("at"), DeliverAt: at})
	if h := send(&client.Message{Body: []byte("now")}); h != "" {
		t.Errorf("a message that is not timed has the handle %q", h)
	}
	if err := p.Recall(t.Context(), "T", handle); err != nil {
		t.Fatal(err)
	}
	var refusal *client.BrokerError
	if err := p.Recall(t.Context(), "T", handle); !errors.As(err, &refusal) || refusal.Code != remoting.IllegalOperation {
		t.Errorf("again: %v", err)
	}
	if err := p.Recall(t.Context(), "T", "no handle"); !errors.Is(err, client.ErrConfig) {
		t.Errorf("no handle: %v", err)
	}
	records := c.arrived("T", 0, 2)
	if got := bodiesOf(records); !slices.Equal(got, []string{"now", "at"}) || records[1].StoreTimestamp() < at.UnixMilli() {
		t.Errorf("%q", got)
	}
}

// A message that was recalled is sent again, the same object: it is no repeat.
func TestTIMER07RecalledMessageIsSentAgain(t *testing.T) {
	t.Parallel()
	cl := startCluster(t, 1, nil)
	b := cl.leader(t)
	c := dial(t, b)
	c.topic("T", 1)
	r := c.mustSend(timed("T", 0, time.Hour, remoting.PropUniqKey, "u"), "late")
	c.must(remoting.RecallMessage, recallOf("T", r.RecallHandle))
	dial(t, b).mustSend(timed("T", 0, 50*time.Millisecond, remoting.PropUniqKey, "u"), "soon")
	if got := bodiesOf(c.arrived("T", 0, 1)); got[0] != "soon" {
		t.Errorf("%q", got)
	}
}
