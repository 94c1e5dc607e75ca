package remoting

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

func testRecord() Record {
	return Record{
		QueueID: 5, Flag: -1, QueueOffset: 1 << 40, PhysicalOffset: 1 << 50, SysFlag: SysFlagCompressed | SysFlagStoreHostV6, BornTimestamp: 1,
		BornHost: netip.MustParseAddrPort("1.2.3.4:5"), StoreTimestamp: 2, StoreHost: netip.MustParseAddrPort("6.7.8.9:10"), ReconsumeTimes: 3,
		PreparedTransactionOffset: 4, Body: []byte("body"), Topic: "T", Properties: AppendProperty(nil, "k", "v"),
	}
}

func TestRecordRoundTrip(t *testing.T) {
	v6 := netip.MustParseAddrPort("[2001:db8::1]:65535")
	for name, change := range map[string]func(*Record){
		"v4":            func(r *Record) {},
		"born v6":       func(r *Record) { r.BornHost = v6 },
		"stored v6":     func(r *Record) { r.StoreHost = v6 },
		"both v6":       func(r *Record) { r.BornHost, r.StoreHost = v6, v6 },
		"v4 in v6":      func(r *Record) { r.BornHost = netip.MustParseAddrPort("[::ffff:1.2.3.4]:5") },
		"empty":         func(r *Record) { r.Body, r.Properties = []byte{}, Properties{} },
		"topic of 127":  func(r *Record) { r.Topic = strings.Repeat("t", 127) },
		"topic of 128":  func(r *Record) { r.Topic = strings.Repeat("t", 128) },
		"topic of 255":  func(r *Record) { r.Topic = RetryPrefix + strings.Repeat("t", 248) },
		"properties":    func(r *Record) { r.Properties = Properties(strings.Repeat("p", MaxProperties)) },
		"body of 4 MiB": func(r *Record) { r.Body = make([]byte, MaxMessageSize) },
	} {
		t.Run(name, func(t *testing.T) {
			r := testRecord()
			change(&r)
			b, err := AppendRecord([]byte("before"), &r)
			if err != nil {
				t.Fatal(err)
			}
			b = b[6:]
			if len(b) != r.Size() {
				t.Errorf("%d bytes, Size says %d", len(b), r.Size())
			}
			if magic := getUint32(b[4:]); (magic == MagicV2) != (len(r.Topic) > 127) {
				t.Errorf("magic %08X with a topic of %d bytes", magic, len(r.Topic))
			}
			SetQueueID(b, 55)
			SetQueueOffset(b, 77)
			SetPhysicalOffset(b, 88)
			SetStoreTimestamp(b, 99)
			SetPreparedTransactionOffset(b, 66)
			v, err := ParseRecord(append(b, "behind"...))
			if err != nil {
				t.Fatal(err)
			}
			got := v.Record()
			want := r
			want.QueueID, want.QueueOffset, want.PhysicalOffset, want.StoreTimestamp, want.PreparedTransactionOffset = 55, 77, 88, 99, 66
			want.BornHost = netip.AddrPortFrom(want.BornHost.Addr().Unmap(), want.BornHost.Port())
			want.SysFlag = SysFlagCompressed
			if want.BornHost == v6 {
				want.SysFlag |= SysFlagBornHostV6
			}
			if want.StoreHost == v6 {
				want.SysFlag |= SysFlagStoreHostV6
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if err := v.VerifyBody(); err != nil {
				t.Error(err)
			}
			host, offset, err := ParseOffsetMsgID(v.OffsetMsgID())
			if err != nil || host != want.StoreHost || offset != 88 {
				t.Errorf("id %s is of %v at %d, %v", v.OffsetMsgID(), host, offset, err)
			}
		})
	}
}

func TestRecordTooLong(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"properties": func(r *Record) { r.Properties = make(Properties, MaxProperties+1) },
		"topic":      func(r *Record) { r.Topic = strings.Repeat("t", 32768) },
	} {
		r := testRecord()
		change(&r)
		if b, err := AppendRecord([]byte("x"), &r); !errors.Is(err, ErrTooLong) || string(b) != "x" {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

// TestRecordRefusals breaks each length of a record, and cuts it at each byte.
func TestRecordRefusals(t *testing.T) {
	r := testRecord()
	good, err := AppendRecord(nil, &r)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(good) {
		if _, err := ParseRecord(good[:n]); !errors.Is(err, ErrRecord) {
			t.Errorf("cut at %d: %v", n, err)
		}
		short := bytes.Clone(good[:n])
		if n >= 4 {
			putUint32(short, uint32(n)) // and its size is made to fit
			if _, err := ParseRecord(short); !errors.Is(err, ErrRecord) {
				t.Errorf("cut at %d with that size: %v", n, err)
			}
		}
	}
	for _, tt := range []struct {
		at    int
		bytes string
	}{
		{0, "\xff\xff\xff\xff"}, {0, "\x00\x00\x00\x00"}, {0, "\x7f\xff\xff\xff"}, {4, "\xcb\xd4\x31\x94"}, {4, "\xda\xa3\x20\xab"},
		{39, "\x10"}, {39, "\x20"}, {39, "\x30"}, {84, "\xff\xff\xff\xff"}, {84, "\x7f\xff\xff\xff"}, {84, "\x00\x00\x00\x05"}, {92, "\xff"}, {92, "\x00"},
		{94, "\xff\xff"}, {94, "\x00\x03"}, {94, "\x00\x05"},
	} {
		b := bytes.Clone(good)
		copy(b[tt.at:], tt.bytes)
		if _, err := ParseRecord(b); !errors.Is(err, ErrRecord) {
			t.Errorf("%q at %d: %v", tt.bytes, tt.at, err)
		}
	}
	bad := bytes.Clone(good)
	bad[88] ^= 1
	if v, err := ParseRecord(bad); err != nil || !errors.Is(v.VerifyBody(), ErrRecord) {
		t.Errorf("a flipped bit in the body: %v, %v", err, v.VerifyBody())
	}
	if _, err := DecodeRecords(append(bytes.Clone(good), bad[:50]...)); !errors.Is(err, ErrRecord) || !strings.Contains(err.Error(), "record 1 at byte 100") {
		t.Errorf("second record cut off: %v", err)
	}
	if b := AppendBlank(nil, 100); !bytes.Equal(b, []byte{0, 0, 0, 100, 0xcb, 0xd4, 0x31, 0x94}) {
		t.Errorf("filler %x", b)
	}
}

func TestBatchRefusals(t *testing.T) {
	good, err := AppendBatch(nil, &BatchMessage{Body: []byte("hello"), Properties: Properties("k\x01v")})
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(good) {
		if _, err := DecodeBatch(good[:n], 10); !errors.Is(err, ErrBody) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	for _, tt := range []struct {
		at    int
		bytes string
	}{
		{0, "\xff\xff\xff\xff"}, {0, "\x00\x00\x00\x00"}, {0, "\x00\x00\x00\x15"}, {0, "\x00\x00\x00\x1d"}, {16, "\xff\xff\xff\xff"},
		{16, "\x00\x00\x00\x09"}, {16, "\x7f\xff\xff\xff"}, {25, "\xff\xff"}, {25, "\x00\x02"},
	} {
		b := bytes.Clone(good)
		copy(b[tt.at:], tt.bytes)
		if _, err := DecodeBatch(b, 10); !errors.Is(err, ErrBody) {
			t.Errorf("%q at %d: %v", tt.bytes, tt.at, err)
		}
	}
	million := bytes.Repeat(append([]byte{0, 0, 0, 22}, make([]byte, 18)...), 1_000_000)
	if list, err := DecodeBatch(million, 1000); !errors.Is(err, ErrBody) || list != nil {
		t.Errorf("a batch of 10^6 with a limit of 1000: %d, %v", len(list), err)
	}
	if list, err := DecodeBatch(million[:22*1000], 1000); err != nil || len(list) != 1000 {
		t.Errorf("a batch of 1000: %d, %v", len(list), err)
	}
	if _, err := AppendBatch(nil, &BatchMessage{Properties: make(Properties, MaxProperties+1)}); !errors.Is(err, ErrTooLong) {
		t.Errorf("long properties: %v", err)
	}
}

func TestProperties(t *testing.T) {
	p := Properties("a\x011\x02b\x01\x02junk\x02a\x012\x02c\x01x\x01y\x02\x02\x01e\x02d\x01last")
	var all []string
	for name, value := range p.All() {
		all = append(all, string(name)+"="+string(value))
	}
	if got := strings.Join(all, " "); got != "a=1 a=2 c=x\x01y =e d=last" {
		t.Errorf("all are %q", got)
	}
	for name, want := range map[string]string{"a": "2", "b": "", "c": "x\x01y", "d": "last", "junk": "", "": "e", "none": ""} {
		if got := p.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
		if v, ok := p.Lookup(name); ok != (want != "") || string(v) != want {
			t.Errorf("Lookup of %s: %q, %v", name, v, ok)
		}
	}
	rest := p.AppendExcept(nil, "a", "c")
	if string(rest) != "b\x01\x02junk\x02\x02\x01e\x02d\x01last" {
		t.Errorf("without a and c: %q", rest)
	}
	if set := AppendProperty(rest, "a", "3"); string(set) != string(rest)+"\x02a\x013\x02" || set.Get("a") != "3" || set.Get("d") != "last" {
		t.Errorf("a set: %q", set)
	}
	if whole := p.AppendExcept(nil); !bytes.Equal(whole, p) {
		t.Errorf("without nothing: %q", whole)
	}
	for _, bad := range [][2]string{{"", "v"}, {"k", ""}, {"k\x01", "v"}, {"k", "v\x02"}, {"k", "\xff"}} {
		if err := CheckProperty(bad[0], bad[1]); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := CheckProperty("名", "值 😀\n"); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"T": true, "a-b_c%d|e9": true, "": false, "a b": false, "../../x": false, "a\x00": false, "名": false, "a@b": false, "a/b": false,
		strings.Repeat("t", 127): true, strings.Repeat("t", 128): false, strings.Repeat("t", 255): false,
		RetryTopic(strings.Repeat("g", 248)): true, RetryTopic(strings.Repeat("g", 249)): false, DLQTopic(strings.Repeat("g", 250)): true,
	} {
		if err := CheckTopic(name); (err == nil) != ok || err != nil && !errors.Is(err, ErrName) {
			t.Errorf("topic %.40q: %v", name, err)
		}
	}
	for name, ok := range map[string]bool{"g": true, strings.Repeat("g", 120): true, strings.Repeat("g", 121): false, "": false, "../x": false, "g@t": false} {
		if err := CheckGroup(name); (err == nil) != ok || err != nil && !errors.Is(err, ErrName) {
			t.Errorf("group %.40q: %v", name, err)
		}
	}
	for name, want := range map[string][2]bool{ // system, read only
		TopicAutoCreate: {true, false}, TopicSchedule: {true, true}, TopicHalf: {true, true}, TopicSelfTest: {true, true}, "rmq_sys_x": {true, false},
		TopicTrace: {true, false}, "T": {false, false}, "%RETRY%g": {false, false},
	} {
		if got := [2]bool{IsSystemTopic(name), IsReadOnlyTopic(name)}; got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if !IsSystemGroup("CID_RMQ_SYS_X") || !IsSystemGroup(GroupTools) || IsSystemGroup("g") {
		t.Error("system groups")
	}
}

func TestParseOffsetMsgIDRefusals(t *testing.T) {
	for _, id := range []string{"", "7F", strings.Repeat("G", 32), strings.Repeat("0", 33), "7F000001FFFFFFFF0000000000000400"} {
		if _, _, err := ParseOffsetMsgID(id); !errors.Is(err, ErrField) {
			t.Errorf("%q: %v", id, err)
		}
	}
	id := OffsetMsgID(netip.MustParseAddrPort("[::1]:10911"), 1)
	if host, offset, err := ParseOffsetMsgID(strings.ToLower(id)); err != nil || host.String() != "[::1]:10911" || offset != 1 || len(id) != 56 {
		t.Errorf("%s: %v %d %v", id, host, offset, err)
	}
}

func TestUniqKeysAreUnique(t *testing.T) {
	addr := netip.MustParseAddr("10.0.0.9")
	// As many processes as containers that share address and pid.
	makers := []*UniqKeys{NewUniqKeys(addr), NewUniqKeys(addr), NewUniqKeys(addr)}
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for _, u := range makers {
		for range 4 {
			wg.Go(func() {
				ids := make([]string, 20_000)
				for i := range ids {
					ids[i] = u.Next()
				}
				mu.Lock()
				defer mu.Unlock()
				for _, id := range ids {
					if len(id) != 32 || seen[id] {
						t.Errorf("id %s has come before", id)
						return
					}
					seen[id] = true
				}
			})
		}
	}
	wg.Wait()
	if id := NewUniqKeys(netip.MustParseAddr("::1")).Next(); len(id) != 56 {
		t.Errorf("IPv6 id %s", id)
	}
}

func TestUniqKeysClock(t *testing.T) {
	u := NewUniqKeys(netip.MustParseAddr("10.0.0.9"))
	now := time.Date(2024, 2, 29, 23, 59, 59, 999e6, time.UTC)
	u.now = func() time.Time { return now }
	id := u.Next()
	if want := fmt.Sprintf("%08X0000", ((28*24+23)*3600+59*60+59)*1000+999); id[:8] != "0A000009" || id[20:] != want {
		t.Errorf("id %s, want it to end in %s", id, want)
	}
	salt := id[12:20]
	seen := map[string]bool{id: true}
	for range 100_000 { // more in one millisecond than a counter of 16 bits has
		id := u.Next()
		if seen[id] || id[12:20] != salt {
			t.Fatalf("id %s", id)
		}
		seen[id] = true
	}
	now = now.Add(-time.Hour)
	if id := u.Next(); seen[id] || id[12:20] != salt {
		t.Errorf("after the clock went back: %s", id)
	}
	now = time.Date(2024, 3, 1, 0, 0, 0, 5e6, time.UTC)
	if id := u.Next(); id[20:] != "000000050000" || id[12:20] == salt {
		t.Errorf("in the next month: %s", id)
	}
}
