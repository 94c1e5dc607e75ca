package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// goldenBody is what was compressed in testdata/compressed.
func goldenBody() []byte {
	var b []byte
	for i := 0; len(b) < 6000; i++ {
		b = fmt.Appendf(b, "line %d of a text that repeats itself\n", i)
	}
	return b
}

func mustDecompressor(t testing.TB, limit int) *decompressor {
	t.Helper()
	d, err := newDecompressor(limit)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestJavaCompressed: what Java's client 5.3.3 has compressed is what it was.
func TestJavaCompressed(t *testing.T) {
	d := mustDecompressor(t, 1<<20)
	for name, sysFlag := range map[string]int32{"lz4": 0x101, "zstd": 0x201, "zlib": 0x301} {
		b, err := os.ReadFile(filepath.Join("testdata", "compressed", "java-5.3.3."+name))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.decompress(b, sysFlag); err != nil || !bytes.Equal(got, goldenBody()) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		for n := range len(b) {
			if got, err := d.decompress(b[:n], sysFlag); !errors.Is(err, ErrUndecodable) {
				t.Errorf("%s, the first %d of %d bytes: %d bytes, %v", name, n, len(b), len(got), err)
			}
		}
	}
}

// TestSEND14EachCompression: whatever a producer compresses with comes back as it was.
func TestSEND14EachCompression(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		queue := MessageQueue{Topic: "T", BrokerName: "broker-a"}
		random := make([]byte, 8000)
		rng := seeded(t)
		for i := range random {
			random[i] = byte(rng.Uint32())
		}
		bodies := mustDecompressor(t, 16<<20)
		n := 0
		for _, cfg := range []ProducerConfig{{}, {CompressLevel: 9}, {Compression: LZ4}, {Compression: Zstd}, {Compression: Zstd, CompressLevel: 1}} {
			p := c.producer(cfg)
			for i, row := range []struct {
				body       []byte
				compressed bool
			}{{bytes.Repeat([]byte("x"), 4095), false}, {bytes.Repeat([]byte("x"), 4096), true}, {random, false}, {bytes.Repeat([]byte("ab"), 1<<20), true}} {
				mustSend(t, p, &Message{Topic: "T", Body: row.body, Flag: 7})
				rec := c.groups[0].records(queue)[n]
				n++
				want := int32(0)
				if row.compressed {
					want = map[Compression]int32{Zlib: 1, LZ4: 0x101, Zstd: 0x201}[cfg.Compression]
				}
				if rec.SysFlag() != want || rec.Flag() != 7 {
					t.Errorf("%v, row %d: sysFlag %#x, flag %d", cfg.Compression, i, rec.SysFlag(), rec.Flag())
				}
				if row.compressed && len(rec.Body()) >= len(row.body)/10 {
					t.Errorf("%v, row %d: %d bytes became %d", cfg.Compression, i, len(row.body), len(rec.Body()))
				}
				var m MessageExt
				if decodeMessage(&m, rec, "broker-a"); row.compressed {
					m.decompress(bodies)
				}
				if !bytes.Equal(m.Body, row.body) || m.Compressed || m.Err != nil {
					t.Errorf("%v, row %d: the body did not come back: %v", cfg.Compression, i, m.Err)
				}
			}
		}
		if _, err := c.client(Config{}).NewProducer(ProducerConfig{Compression: 3}); !errors.Is(err, ErrConfig) {
			t.Error("a compression that does not exist:", err)
		}
	})
}

func TestDecompressLimit(t *testing.T) {
	for _, kind := range []Compression{Zlib, LZ4, Zstd} {
		c, err := newCompressor(kind, 9)
		if err != nil {
			t.Fatal(err)
		}
		bomb, sysFlag, err := c.compress(make([]byte, 100_000))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mustDecompressor(t, 99_999).decompress(bomb, sysFlag); !errors.Is(err, ErrUndecodable) || !strings.Contains(err.Error(), "MaxDecompressed") {
			t.Errorf("%v: a body that is longer than the limit: %v", kind, err)
		}
		if b, err := mustDecompressor(t, 100_000).decompress(bomb, sysFlag); err != nil || len(b) != 100_000 {
			t.Errorf("%v: a body as long as the limit: %d bytes, %v", kind, len(b), err)
		}
		if _, err := mustDecompressor(t, 100_000).decompress([]byte("garbage"), sysFlag); !errors.Is(err, ErrUndecodable) {
			t.Errorf("%v: garbage: %v", kind, err)
		}
	}
	if _, err := mustDecompressor(t, 100).decompress([]byte("x"), 0x401); !errors.Is(err, ErrUndecodable) {
		t.Error("a type that does not exist:", err)
	}
}

// TestBomb: a body that cannot be decompressed is a failure of its message alone: those pulled and consumed together with it are consumed.
func TestBomb(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{})
		for i, n := range []int{1, 1 << 20, 1, 1000 << 10, 1} {
			mustSend(t, p, &Message{Topic: "T", Body: bytes.Repeat(fmt.Append(nil, i), n)})
		}
		var seen journal
		consumer, err := c.client(Config{MaxDecompressed: 1000 << 10}).NewPushConsumer(PushConfig{Group: "g", From: FromFirst, ConsumeBatch: 5, Workers: 1, MaxReconsumeTimes: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := consumer.Subscribe("T", "*", func(_ context.Context, msgs []*MessageExt) error {
			for _, m := range msgs {
				seen.add("%c", m.Body[0])
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := consumer.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		if got := seen.String(); got != "0, 2, 3, 4" {
			t.Errorf("consumed %s", got)
		}
		if n := len(c.groups[0].records(MessageQueue{Topic: remoting.DLQTopic("g"), BrokerName: "broker-a"})); n != 1 {
			t.Errorf("%d dead letters, want the bomb", n)
		}
		if o, _ := c.groups[0].offset("g", MessageQueue{Topic: "T"}); o != 5 {
			t.Errorf("committed %d, want 5", o)
		}
	})
}

// TestAnswerRoom: what small messages become together is bounded too; the others come with the next pull.
func TestAnswerRoom(t *testing.T) {
	bubble(t, 1, 1, func(t *testing.T, c *cluster) {
		c.topic("T", 1)
		p := c.producer(ProducerConfig{})
		for range 10 {
			mustSend(t, p, &Message{Topic: "T", Body: bytes.Repeat([]byte("x"), 1<<20)})
		}
		pull, err := c.client(Config{MaxDecompressed: 1 << 20}).NewPullConsumer(PullConfig{Group: "g"})
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for at := int64(0); at < 10; {
			res, err := pull.Pull(t.Context(), PullRequest{Queue: MessageQueue{Topic: "T", BrokerName: "broker-a"}, Offset: at})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range res.Messages {
				if m.Err != nil || m.QueueOffset != at {
					t.Errorf("offset %d, want %d: %v", m.QueueOffset, at, m.Err)
				}
				at++
			}
			if got = append(got, len(res.Messages)); res.NextOffset != at {
				t.Fatalf("next %d, want %d", res.NextOffset, at)
			}
		}
		if !slices.Equal(got, []int{4, 4, 2}) {
			t.Errorf("answers of %v", got)
		}
	})
}

func FuzzDecompress(f *testing.F) {
	for i, name := range []string{"lz4", "zstd", "zlib"} {
		b, err := os.ReadFile(filepath.Join("testdata", "compressed", "java-5.3.3."+name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, byte(i+1))
	}
	d, err := newDecompressor(64 << 10)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, kind byte) {
		out, err := d.decompress(body, int32(kind&7)<<8)
		if err != nil && !errors.Is(err, ErrUndecodable) || len(out) > 64<<10 {
			t.Errorf("%d bytes, %v", len(out), err)
		}
	})
}
