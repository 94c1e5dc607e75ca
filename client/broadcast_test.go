package client

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// TestREBAL05AndRETRY11Broadcasting: each client gets all messages; one that fails is skipped, and nothing is asked of retry topics. (The
// fake replica knows no other way than ours; package broker has the same with a real one.)
func TestREBAL05AndRETRY11Broadcasting(t *testing.T) {
	dir := t.TempDir()
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 4)
		var all [3]received
		var failures journal
		for i := range all {
			c.push(PushConfig{From: FromFirst, Broadcasting: true, OffsetFile: filepath.Join(dir, string(rune('a'+i)))}, "*", func(ctx context.Context, msgs []*MessageExt) error {
				all[i].listen(ctx, msgs)
				if string(msgs[0].Body) == "5" {
					failures.add("%d", i)
					return errors.New("listener")
				}
				return nil
			})
		}
		pass(time.Second)
		r := c.groups[0].replicas[0]
		r.g.mu.Lock()
		if model := r.beats[len(r.beats)-1].Consumers[0].MessageModel; model != remoting.Broadcasting {
			t.Errorf("heartbeats say %s", model)
		}
		for _, b := range r.beats {
			for _, d := range b.Consumers {
				for _, s := range d.Subscriptions {
					if s.Topic != "T" {
						t.Errorf("subscribed to %s", s.Topic)
					}
				}
			}
		}
		r.g.mu.Unlock()
		p := c.producer(ProducerConfig{})
		for i := range 20 {
			mustSend(t, p, &Message{Topic: "T", Body: []byte{byte('0' + i%10)}})
		}
		pass(time.Minute)
		for i := range all {
			if n := len(all[i].msgs); n != 20 {
				t.Errorf("client %d got %d messages of 20", i, n)
			}
		}
		if n := len(failures.lines); n != 6 {
			t.Errorf("the listeners failed %d times on 2 messages of 3 clients", n)
		}
		for _, code := range []int32{remoting.ConsumerSendMsgBack, remoting.UpdateConsumerOffset, remoting.QueryConsumerOffset} {
			if n := r.requests(code); n != 0 {
				t.Errorf("%d requests %s", n, remoting.RequestName(code))
			}
		}
		if n := len(c.groups[0].records(MessageQueue{Topic: remoting.RetryTopic("g"), BrokerName: "broker-a"})); n != 0 {
			t.Errorf("%d messages in the retry topic", n)
		}
	})
}

// TestBroadcastRestart: a client goes on where it was, also if the file was damaged meanwhile; and says so if it cannot know.
func TestBroadcastRestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "deep", "offsets.json")
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		mq := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		cfg := PushConfig{From: FromFirst, Broadcasting: true, OffsetFile: file}
		run := func(want int) {
			t.Helper()
			var r received
			p := c.push(cfg, "*", r.listen)
			pass(time.Second)
			if err := p.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if len(r.msgs) != want {
				t.Errorf("%d messages, want %d", len(r.msgs), want)
			}
		}
		c.groups[0].fill(mq, 10)
		run(10)
		c.groups[0].fill(mq, 5)
		run(5)
		// Damaged: the one before is taken, so some come again, and none is skipped.
		if err := os.WriteFile(file, []byte(`{"offsetTable":{{"brok`), 0o644); err != nil {
			t.Fatal(err)
		}
		run(5)
		if err := os.Remove(file); err != nil { // as if it had crashed between the two renames
			t.Fatal(err)
		}
		run(5)
		for name, text := range map[string]string{"empty": "", "cut": `{"offsetTable":{{"brok`, "negative": `{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:-7}}`} {
			for _, f := range []string{file, file + ".bak"} {
				if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			p, err := c.client(Config{}).NewPushConsumer(PushConfig{Group: "g", Broadcasting: true, OffsetFile: file})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Subscribe("T", "*", new(received).listen); err != nil {
				t.Fatal(err)
			}
			if err := p.Start(t.Context()); !errors.Is(err, ErrOffsetFile) || !strings.Contains(err.Error(), file) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// What Java's client has written is read.
		text := "{\n\t\"offsetTable\":{{\n\t\t\t\"brokerName\":\"broker-a\",\n\t\t\t\"queueId\":0,\n\t\t\t\"topic\":\"T\"\n\t\t}:13\n\t}\n}"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		run(2)
	})
}

// TestOffsetFileName: without a name that stays there is no place to keep offsets.
func TestOffsetFileName(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		if _, err := c.client(Config{}).NewPushConsumer(PushConfig{Group: "g", Broadcasting: true}); !errors.Is(err, ErrConfig) {
			t.Error("a random client id:", err)
		}
		t.Setenv("HOME", t.TempDir())
		for id, ok := range map[string]bool{"host@1": true, "..": false, "a/../../b": false, "/etc": false} {
			p, err := c.client(Config{ClientID: id}).NewPushConsumer(PushConfig{Group: "g", Broadcasting: true})
			if ok != (err == nil) || err != nil && !errors.Is(err, ErrConfig) {
				t.Errorf("%q: %v", id, err)
			}
			if want := filepath.Join(os.Getenv("HOME"), ".rocketmq_offsets", id, "g", "offsets.json"); ok && p.store.(*fileOffsets).path != want {
				t.Errorf("%s, want %s", p.store.(*fileOffsets).path, want)
			}
		}
	})
}

// TestOffsetFileFails: a file that cannot be written is said at Start, or is written again later; the offset before stays whole.
func TestOffsetFileFails(t *testing.T) {
	dir := t.TempDir()
	o := &fileOffsets{path: filepath.Join(dir, "f"), log: testClient(t).log}
	if err := o.load(); err != nil {
		t.Fatal(err)
	}
	mq := MessageQueue{Topic: "T", BrokerName: "b", QueueID: 1}
	for _, step := range []struct {
		offset int64
		fails  bool
	}{{5, false}, {6, true}, {7, true}, {7, false}} {
		if step.fails { // a directory is where the new file is to be
			if err := os.MkdirAll(o.path+".tmp", 0o755); err != nil {
				t.Fatal(err)
			}
		} else if err := os.RemoveAll(o.path + ".tmp"); err != nil {
			t.Fatal(err)
		}
		if err := o.commit(t.Context(), mq, step.offset); err != nil {
			t.Fatal(err)
		}
		if err := o.save(); step.fails != errors.Is(err, ErrOffsetFile) {
			t.Errorf("offset %d: %v", step.offset, err)
		}
		again := &fileOffsets{path: o.path, log: o.log}
		want := step.offset
		if step.fails {
			want = 5
			if err := again.load(); !errors.Is(err, ErrOffsetFile) {
				t.Error("a directory that cannot be written to:", err)
			}
		} else if err := again.load(); err != nil {
			t.Error(err)
		}
		if got, err := again.committed(t.Context(), mq); err != nil || got != want {
			t.Errorf("after offset %d the file has %d, %v", step.offset, got, err)
		}
	}
	if _, err := o.committed(t.Context(), MessageQueue{Topic: "other"}); !errors.Is(err, ErrNoOffset) {
		t.Error(err)
	}
}

func FuzzOffsetFile(f *testing.F) {
	for _, s := range []string{`{"offsetTable":{{"brokerName":"b","queueId":0,"topic":"T"}:5}}`, `{"offsetTable":{}}`, `{`, ``} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		offsets, err := readOffsets(path)
		if err != nil && !errors.Is(err, errDamaged) {
			t.Error(err)
		}
		for _, o := range offsets {
			if err == nil && o.Offset < 0 {
				t.Errorf("%+v", o)
			}
		}
	})
}
