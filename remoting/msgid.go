package remoting

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"
)

const upperHex = "0123456789ABCDEF"

// OffsetMsgID names a record by the broker that stored it and its place there:
//
//	hex of: address (4 or 16 bytes) | port i32 | physicalOffset i64       32 or 56 digits, upper case
func OffsetMsgID(storeHost netip.AddrPort, physicalOffset int64) string {
	var b [28]byte
	return upperHexString(appendUint64(appendHost(b[:0], storeHost), uint64(physicalOffset)))
}

// ParseOffsetMsgID undoes OffsetMsgID. A client's UNIQ_KEY has the same shape: an id that parses need not be an offset id, but then its
// host is nonsense.
func ParseOffsetMsgID(id string) (storeHost netip.AddrPort, physicalOffset int64, err error) {
	if len(id) != 32 && len(id) != 56 {
		return netip.AddrPort{}, 0, fmt.Errorf("%w: message id %.64q has %d digits, want 32 or 56", ErrField, id, len(id))
	}
	b, err := hex.DecodeString(id)
	if err != nil {
		return netip.AddrPort{}, 0, fmt.Errorf("%w: message id %q is not hexadecimal", ErrField, id)
	}
	n := len(b) - 8
	if port := getUint32(b[n-4:]); port > 65535 {
		return netip.AddrPort{}, 0, fmt.Errorf("%w: message id %q: port %d", ErrField, id, port)
	}
	return host(b[:n]), int64(getUint64(b[n:])), nil
}

func upperHexString(b []byte) string {
	var s [2 * 28]byte
	for i, c := range b {
		s[2*i], s[2*i+1] = upperHex[c>>4], upperHex[c&15]
	}
	return string(s[:2*len(b)])
}

// UniqKeys makes client message ids (property UNIQ_KEY). It is safe for use by several goroutines.
//
//	hex of: address (4 or 16) | pid i16 | salt i32 | ms since the month began i32 | counter i16       32 or 56 digits, upper case
//
// The time is what tools search by. Ids of one process differ because (ms, counter) only ever grows, running ahead of the clock if it must;
// those of different processes because of the salt, which is random: containers share address and pid. A new month, in which the time
// starts over, has a new salt.
type UniqKeys struct {
	mu     sync.Mutex
	prefix [22]byte // address, pid, salt
	n      int      // bytes of prefix in use
	now    func() time.Time
	month  time.Time
	next   uint64    // of the next id: ms<<16 | counter
	start  time.Time // of the following month
}

// NewUniqKeys returns a generator that puts addr, the client's address as brokers see it, into its ids.
func NewUniqKeys(addr netip.Addr) *UniqKeys {
	u := &UniqKeys{now: time.Now}
	ip := addr.Unmap().AsSlice() // nil for the zero Addr
	if ip == nil {
		ip = make([]byte, 4)
	}
	u.n = copy(u.prefix[:], ip) + 6
	pid := os.Getpid()
	u.prefix[u.n-6], u.prefix[u.n-5] = byte(pid>>8), byte(pid)
	return u
}

// Next returns a new id.
func (u *UniqKeys) Next() string {
	u.mu.Lock()
	now := u.now()
	if !now.Before(u.start) {
		u.month = time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, now.Location())
		u.start = u.month.AddDate(0, 1, 0)
		u.next = 0
		rand.Read(u.prefix[u.n-4 : u.n]) // never fails
	}
	if clock := uint64(max(now.Sub(u.month).Milliseconds(), 0)) << 16; clock > u.next {
		u.next = clock
	}
	id := u.next
	u.next++
	var b [28]byte
	n := copy(b[:], u.prefix[:u.n])
	u.mu.Unlock()
	putUint32(b[n:], uint32(id>>16))
	b[n+4], b[n+5] = byte(id>>8), byte(id)
	return upperHexString(b[:n+6])
}
