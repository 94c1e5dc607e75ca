package namesrv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/raftmq/raftmq/remoting"
	"github.com/raftmq/raftmq/storage/disk"
)

func TestKV(t *testing.T) {
	for _, path := range []string{"", "/store/namesrv/kvConfig.json"} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire()
				s := w.serve(t, "ns:1", Config{KVPath: path, FS: disk.NewMem(1)})
				c := w.client(t, "ns:1")
				get := func(space, key string) string {
					resp := c.ask(remoting.GetKVConfig, "namespace", space, "key", key)
					return fmt.Sprint(resp.Code, " ", resp.Ext.Get("value"))
				}
				list := func(space string) string {
					resp := c.ask(remoting.GetKVListByNamespace, "namespace", space)
					return fmt.Sprint(resp.Code, " ", string(resp.Body))
				}
				for _, step := range []struct{ got, want string }{
					{get("n", "k"), "22 "},
					{list("n"), "22 "},
					{fmt.Sprint(c.ok(remoting.PutKVConfig, "namespace", "n", "key", "k", "value", "v").Code), "0"},
					{fmt.Sprint(c.ok(remoting.PutKVConfig, "namespace", "n", "key", "k2", "value", "v2").Code), "0"},
					{fmt.Sprint(c.ok(remoting.PutKVConfig, "namespace", "n", "key", "k", "value", "v1 \"é\"").Code), "0"},
					{get("n", "k"), `0 v1 "é"`},
					{list("n"), `0 {"table":{"k":"v1 \"é\"","k2":"v2"}}`},
					{fmt.Sprint(c.ok(remoting.DeleteKVConfig, "namespace", "n", "key", "nope").Code), "0"},
					{fmt.Sprint(c.ok(remoting.DeleteKVConfig, "namespace", "n", "key", "k").Code), "0"},
					{fmt.Sprint(c.ok(remoting.DeleteKVConfig, "namespace", "n", "key", "k2").Code), "0"},
					{list("n"), "22 "},
					{fmt.Sprint(c.ask(remoting.PutKVConfig, "namespace", "n", "key", "k").Code), "29"},
					{fmt.Sprint(c.ask(remoting.DeleteKVConfig, "namespace", "n").Code), "29"},
					{fmt.Sprint(c.ask(remoting.GetKVConfig).Code), "29"},
					{fmt.Sprint(c.ask(remoting.GetKVListByNamespace).Code), "29"},
				} {
					if step.got != step.want {
						t.Errorf("got %q, want %q", step.got, step.want)
					}
				}
				checkTable(t, s)
			})
		})
	}
}

func TestKVBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.serve(t, "ns:1", Config{})
		c := w.client(t, "ns:1")
		large := strings.Repeat("v", MaxKVBytes/4)
		for i := range 3 {
			c.ok(remoting.PutKVConfig, "namespace", "n", "key", strconv.Itoa(i), "value", large)
		}
		if resp := c.ask(remoting.PutKVConfig, "namespace", "n", "key", "3", "value", large); resp.Code != remoting.SystemError || !strings.Contains(resp.Remark, "4194304") {
			t.Errorf("too much is answered %d %q", resp.Code, resp.Remark)
		}
		c.ok(remoting.PutKVConfig, "namespace", "n", "key", "0", "value", "small")
		c.ok(remoting.PutKVConfig, "namespace", "n", "key", "3", "value", large)
	})
}

// TestKVFile: the file on the machine's disk has RocketMQ's format, is written by
// RocketMQ too, and is read again.
func TestKVFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "conf", "kvConfig.json")
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.serve(t, "ns:1", Config{KVPath: path})
		w.client(t, "ns:1").ok(remoting.PutKVConfig, "namespace", "ORDER_TOPIC_CONFIG", "key", "T", "value", "b:4")
	})
	text, err := os.ReadFile(path)
	if want := "{\n  \"configTable\": {\n    \"ORDER_TOPIC_CONFIG\": {\n      \"T\": \"b:4\"\n    }\n  }\n}"; err != nil || string(text) != want {
		t.Errorf("%v, %s", err, text)
	}
	if err := os.WriteFile(path, []byte(`{"configTable":{"ORDER_TOPIC_CONFIG":{"UnitTest":"default"},"e":{},"n":null},"other":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.serve(t, "ns:1", Config{KVPath: path})
		if got := w.client(t, "ns:1").ok(remoting.GetKVConfig, "namespace", "ORDER_TOPIC_CONFIG", "key", "UnitTest").Ext.Get("value"); got != "default" {
			t.Errorf("%q", got)
		}
	})
	for _, text := range []string{"", "[]", `{"configTable":{"n":{"k":1}}}`, strings.Repeat(" ", maxKVFile+1)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := New(Config{KVPath: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%.40q: %v, want an error that names the file", text, err)
			if s != nil {
				s.Close()
			}
		}
	}
}

// TestKVFileFails: the answer says so, the value counts until a restart, and the
// next change writes both.
func TestKVFileFails(t *testing.T) {
	const path = "/kv.json"
	for _, kind := range []disk.OpKind{disk.OpOpen, disk.OpWrite, disk.OpSync, disk.OpRename, disk.OpSyncDir} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := disk.NewMem(1)
				w := newWire()
				w.serve(t, "ns:1", Config{KVPath: path, FS: mem})
				c := w.client(t, "ns:1")
				mem.SetHook(func(op disk.Op) error {
					if op.Kind == kind && op.Label == labelKV {
						return errors.New("broken disk")
					}
					return nil
				})
				resp := c.ask(remoting.PutKVConfig, "namespace", "n", "key", "k", "value", "v")
				if resp.Code != remoting.SystemError || !strings.Contains(resp.Remark, "broken disk") || !strings.Contains(resp.Remark, path) {
					t.Errorf("answered %d %q", resp.Code, resp.Remark)
				}
				c.ok(remoting.GetKVConfig, "namespace", "n", "key", "k")
				mem.SetHook(nil)
				c.ok(remoting.PutKVConfig, "namespace", "n", "key", "k2", "value", "v2")
				kv, err := openKV(mem.Crash(1), path)
				if err != nil || len(kv.spaces["n"]) != 2 {
					t.Errorf("after a crash: %v, %v", kv.spaces, err)
				}
			})
		})
	}
}

func seed(t testing.TB) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if text := os.Getenv("RAFTMQ_SEED"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("RAFTMQ_SEED: %v", err)
		}
	}
	t.Logf("RAFTMQ_SEED=%d", n)
	return n
}

// TestKVCrash: whenever the machine stops, what was answered Success is in the
// file, and the file can be read.
func TestKVCrash(t *testing.T) {
	const path, puts = "/a/b/kv.json", 12
	rng := rand.New(rand.NewPCG(seed(t), 1))
	at := 0
	for done := false; !done; at++ {
		synctest.Test(t, func(t *testing.T) {
			mem := disk.NewMem(rng.Uint64())
			var mu sync.Mutex
			var crashed *disk.Mem
			acked, ackedThen, ops := 0, 0, 0
			crash := rng.Uint64()
			mem.SetHook(func(disk.Op) error {
				mu.Lock()
				defer mu.Unlock()
				if ops++; ops == at+1 {
					crashed, ackedThen = mem.Crash(crash), acked
				}
				return nil
			})
			w := newWire()
			w.serve(t, "ns:1", Config{KVPath: path, FS: mem})
			c := w.client(t, "ns:1")
			for i := range puts {
				c.ok(remoting.PutKVConfig, "namespace", "n", "key", strconv.Itoa(i), "value", strings.Repeat("v", 1000))
				mu.Lock()
				acked++
				mu.Unlock()
			}
			if done = crashed == nil; done {
				return
			}
			kv, err := openKV(crashed, path)
			if err != nil {
				t.Fatalf("crash before operation %d: %v", at, err)
			}
			for i := range ackedThen {
				if kv.spaces["n"][strconv.Itoa(i)] == "" {
					t.Errorf("crash before operation %d: key %d of %d acknowledged is lost", at, i, ackedThen)
				}
			}
		})
	}
	if at < 5*puts {
		t.Errorf("crashed at %d operations only", at)
	}
}
