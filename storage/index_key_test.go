package storage

import (
	"fmt"
	"math/bits"
	"testing"
)

// The hash is part of the file format.
func TestIndexHashIsStable(t *testing.T) {
	for _, c := range []struct {
		topic, key string
		want       uint64
	}{
		{"", "", 0xe9c252c68fb2b89b},
		{"T", "", 0x3ef6230ebc8da1c1},
		{"T", "k", 0x4837b67570d1052c},
		{"Tk", "", 0x8f205270f6c16f59},
		{"Topic", "key", 0x6fd5f3612078f861},
		{"OrdersPaid", "7F0000010B2C18B4AAC2000000000001", 0x5d7b737f542f21e},
		{"OrdersPaid", "7F0000010B2C18B4AAC2000000000002", 0x8a189bc2fde2e63a},
		{"\x00", "\x00\x00\x00\x00\x00\x00\x00\x00", 0xad4bf47b72bd158a},
		{"\x00", "\x00\x00\x00\x00\x00\x00\x00\x00\x00", 0xc7e315d831f10308},
	} {
		if got := indexHash(c.topic, c.key); got != c.want {
			t.Errorf("{%q, %q, %#x},", c.topic, c.key, got)
		}
	}
}

// Keys as clients make them spread evenly and do not collide.
func TestIndexHashSpreads(t *testing.T) {
	const n, slots = 80_000, 1 << 10
	seen := make(map[uint64]string, 3*n)
	var first, last [slots]int
	for i := range n {
		for _, key := range []string{
			fmt.Sprintf("7F0000010B2C18B4AAC2%012X", i),
			fmt.Sprint(i),
			fmt.Sprintf("user-%08d-order", i),
		} {
			h := indexHash("TopicTest", key)
			if other, ok := seen[h]; ok {
				t.Fatalf("%q and %q have the same hash", key, other)
			}
			seen[h] = key
			first[h>>(64-10)]++
			last[h%slots]++
		}
	}
	for name, counts := range map[string][slots]int{"first": first, "last": last} {
		chi := 0.0
		for _, c := range counts {
			d := float64(c) - 3*n/slots
			chi += d * d / (3 * n / slots)
		}
		if chi < slots-8*45 || chi > slots+8*45 { // eight standard deviations
			t.Errorf("%s bits: chi-square %.0f for %d slots", name, chi, slots)
		}
	}
	// Every input bit changes about half of the output.
	base := []byte("7F0000010B2C18B4AAC2000000000001")
	h := indexHash("TopicTest", string(base))
	for bit := range 8 * len(base) {
		base[bit/8] ^= 1 << (bit % 8)
		if d := bits.OnesCount64(h ^ indexHash("TopicTest", string(base))); d < 10 || d > 54 {
			t.Errorf("input bit %d changes %d bits", bit, d)
		}
		base[bit/8] ^= 1 << (bit % 8)
	}
}
