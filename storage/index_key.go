package storage

import "math/bits"

// IndexKey is one key under which a record can be found: its UNIQ_KEY, or one
// of the space-separated tokens of its KEYS.
type IndexKey struct {
	Topic string
	Key   string
	Phys  int64 // the record's physical offset
	Time  int64 // its store time, milliseconds since 1970
}

// The constants of the hash. They are part of the file format: run files are
// sorted by hash, so another hash makes them unreadable (TestIndexHashIsStable).
const (
	indexHashSeed = 0x9ae16a3b2f90404f
	indexHashWord = 0xd6e8feb86659fd93
	indexHashTail = 0xa0761d6478bd642f
	indexHashLast = 0xe7037ed1a0b428db
)

// indexHash is the 64-bit hash of topic and key. It allocates nothing and reads
// eight bytes at a time: apply computes it for every key. It is not keyed: who
// can choose keys can make two collide, which costs lookups of those two keys
// time (the caller compares the real key) and nobody else anything.
func indexHash(topic, key string) uint64 {
	h := indexHashString(indexHashSeed, topic)
	h = indexHashString(h, key)
	return foldMul(h^indexHashSeed, indexHashLast)
}

// indexHashString mixes s into h. The length goes in as well, so that no two
// splits of one text into topic and key are the same.
func indexHashString(h uint64, s string) uint64 {
	h ^= uint64(len(s)) * indexHashLast
	for len(s) >= 8 {
		w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		h = foldMul(h^w, indexHashWord)
		s = s[8:]
	}
	var w uint64
	switch n := len(s); {
	case n >= 4: // two words of four that may overlap
		t := s[n-4:]
		w = uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(t[0])<<32 | uint64(t[1])<<40 | uint64(t[2])<<48 | uint64(t[3])<<56
	case n > 0:
		w = uint64(s[0]) | uint64(s[n/2])<<8 | uint64(s[n-1])<<16
	}
	return foldMul(h^w^indexHashTail, indexHashWord)
}

// foldMul multiplies to 128 bits and folds the halves.
func foldMul(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}
