package storage

import (
	"cmp"
	"slices"
)

// span is the range [from, to) of the log.
type span struct{ from, to int64 }

// spans is a set of positions as a sorted list of ranges that neither overlap
// nor touch.
type spans []span

// add returns the set with [from, to) in it.
func (s spans) add(from, to int64) spans {
	if from >= to {
		return s
	}
	i, _ := slices.BinarySearchFunc(s, from, func(sp span, from int64) int { return cmp.Compare(sp.to, from) })
	j := i
	for j < len(s) && s[j].from <= to {
		from, to = min(from, s[j].from), max(to, s[j].to)
		j++
	}
	return slices.Replace(slices.Clone(s), i, j, span{from, to})
}

// remove returns the set without [from, to).
func (s spans) remove(from, to int64) spans {
	if from >= to {
		return s
	}
	var out spans
	for _, sp := range s {
		if sp.to <= from || sp.from >= to {
			out = append(out, sp)
			continue
		}
		if sp.from < from {
			out = append(out, span{sp.from, from})
		}
		if sp.to > to {
			out = append(out, span{to, sp.to})
		}
	}
	return out
}

// next returns the first range that ends beyond pos, ok = false if there is none.
func (s spans) next(pos int64) (span, bool) {
	i, _ := slices.BinarySearchFunc(s, pos, func(sp span, pos int64) int {
		if sp.to <= pos {
			return -1
		}
		return 1
	})
	if i == len(s) {
		return span{}, false
	}
	return s[i], true
}

// overlaps says whether some of [from, to) is in the set.
func (s spans) overlaps(from, to int64) bool {
	sp, ok := s.next(from)
	return ok && sp.from < to && from < to
}

// within returns the part of the set in [from, to).
func (s spans) within(from, to int64) (out spans) {
	for _, sp := range s {
		if a, b := max(sp.from, from), min(sp.to, to); a < b {
			out = append(out, span{a, b})
		}
	}
	return out
}

// size is the number of positions in the set.
func (s spans) size() (n int64) {
	for _, sp := range s {
		n += sp.to - sp.from
	}
	return n
}
