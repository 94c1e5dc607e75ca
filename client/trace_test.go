package client

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// traces returns the records in the trace topic, each as its fields.
func (c *cluster) traces() (all [][]string) {
	c.t.Helper()
	for _, g := range c.groups {
		for _, v := range g.records(MessageQueue{Topic: remoting.TopicTrace, BrokerName: g.name}) {
			for r := range strings.SplitSeq(strings.TrimSuffix(string(v.Body()), "\x02"), "\x02") {
				all = append(all, strings.Split(r, "\x01"))
				if p := v.Properties(); p.Get(remoting.PropKeys) == "" {
					c.t.Errorf("a trace has the properties %q", p)
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return all
}

func TestADM04TraceRecords(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		c.topic(remoting.TopicTrace, 1)
		cl := c.client(Config{ClientID: "me"})
		tracer, err := cl.NewTracer(TraceConfig{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := cl.NewProducer(ProducerConfig{Group: "p", Interceptors: []SendInterceptor{tracer.Producer("p")}})
		if err != nil {
			t.Fatal(err)
		}
		res, err := p.Send(t.Context(), &Message{Topic: "T", Body: []byte("body"), Tags: "t", Keys: []string{"k1", "k2"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Send(t.Context(), &Message{Topic: "bad name"}); !errors.Is(err, ErrMessage) {
			t.Fatal(err)
		}
		if _, err := p.SendBatch(t.Context(), []*Message{{Topic: "T", Body: []byte("fail")}, {Topic: "T", Body: []byte("panic")}}); err != nil {
			t.Fatal(err)
		}
		consumed := make(chan string, 16)
		c.push(PushConfig{From: FromFirst, MaxReconsumeTimes: NoRetries, Interceptors: []ConsumeInterceptor{tracer.Consumer("g")}}, "*",
			func(_ context.Context, msgs []*MessageExt) error {
				body := string(msgs[0].Body)
				consumed <- body
				switch body {
				case "fail":
					return errors.New("as asked")
				case "panic":
					panic("as asked")
				}
				return nil
			})
		for range 3 {
			<-consumed
		}
		pass(time.Second)
		if err := tracer.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		all := c.traces()
		kinds := map[string]int{}
		before, after := map[string]bool{}, map[string]bool{}
		codes := map[string]int{}
		for _, r := range all {
			kinds[r[0]]++
			switch r[0] {
			case "Pub":
				if len(r) != 15 || r[2] != "DefaultRegion" || r[3] != "p" || r[14] != "me" {
					t.Errorf("%q", r)
				}
				if r[5] == res.MsgID && !slices.Equal(r[4:10], []string{"T", res.MsgID, "t", "k1 k2", "127.0.0.1:10911", "4"}) || r[13] != "true" && r[4] != "bad name" {
					t.Errorf("%q", r)
				}
			case "SubBefore":
				if len(r) != 8 || r[3] != "g" || r[6] != "0" {
					t.Errorf("%q", r)
				}
				before[r[4]] = true
			case "SubAfter":
				if len(r) != 9 || r[8] != "g" || (r[4] == "true") != (r[6] == "0") {
					t.Errorf("%q", r)
				}
				after[r[1]] = true
				codes[r[6]]++
			}
		}
		if kinds["Pub"] != 4 || kinds["SubBefore"] != 3 || kinds["SubAfter"] != 3 || len(before) != 3 || !maps.Equal(before, after) || codes["0"] != 1 || codes["2"] != 1 || codes["4"] != 1 {
			t.Errorf("records %v, codes %v, requests %v, %v", kinds, codes, before, after)
		}
		if tracer.Dropped() != 0 {
			t.Errorf("%d records are lost", tracer.Dropped())
		}
	})
}

// A trace topic that is not there costs the records, and nothing else.
func TestTracesThatNobodyTakes(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		cl := c.client(Config{})
		tracer, err := cl.NewTracer(TraceConfig{Topic: "Nowhere"})
		if err != nil {
			t.Fatal(err)
		}
		p, err := cl.NewProducer(ProducerConfig{Interceptors: []SendInterceptor{tracer.Producer("p")}})
		if err != nil {
			t.Fatal(err)
		}
		const n = 2 * maxTraces
		for range n {
			mustSend(t, p, &Message{Topic: "T", Body: []byte("x")})
		}
		pass(time.Hour)
		if tracer.Dropped() != n {
			t.Errorf("%d records are lost, want %d", tracer.Dropped(), n)
		}
		if _, err := cl.NewTracer(TraceConfig{Topic: "no/name"}); !errors.Is(err, ErrConfig) {
			t.Error(err)
		}
	})
}
