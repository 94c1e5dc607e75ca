package main

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// delivery is one message as it was given to the listener.
type delivery struct {
	offset int64
	line   int // the number it carries; -1: none
	body   []byte
}

// comparison is how what was consumed differs from the input.
type comparison struct {
	consumed   int
	lost       int // lines that never came
	duplicated int // lines that came again
	disordered int // lines behind a later one of their queue, or in another queue
	damaged    int // messages that are not the line whose number they carry
}

// compare looks at each queue's messages in the order of their offsets. Line i
// belongs to queue i % queues, behind all lines before it that do.
func compare(queues map[int32][]delivery, lines [][]byte) (out comparison) {
	n := len(queues)
	seen := make([]bool, len(lines))
	for q, all := range queues {
		out.consumed += len(all)
		inOrder := slices.SortedStableFunc(slices.Values(all), func(a, b delivery) int { return cmp.Compare(a.offset, b.offset) })
		last := -1
		for _, d := range inOrder {
			switch {
			case d.line < 0 || d.line >= len(lines) || !bytes.Equal(d.body, lines[d.line]):
				out.damaged++
			case seen[d.line]:
				out.duplicated++
			default:
				seen[d.line] = true
				if d.line < last || int32(d.line%n) != q {
					out.disordered++
				}
				last = max(last, d.line)
			}
		}
	}
	for _, ok := range seen {
		if !ok {
			out.lost++
		}
	}
	return out
}

// verdict says whether the demo has shown what it is to show, in a sentence.
func verdict(s *production, f comparison, identical bool) (text string, ok bool) {
	var wrong []string
	for what, n := range map[string]int{
		"lost": f.lost, "duplicated": f.duplicated, "out of order": f.disordered, "damaged": f.damaged, "not acknowledged": s.sent - s.acked,
	} {
		if n != 0 {
			wrong = append(wrong, fmt.Sprintf("%d lines %s", n, what))
		}
	}
	slices.Sort(wrong)
	if !identical {
		wrong = append(wrong, "the replicas are not identical")
	}
	if len(wrong) > 0 {
		return "FAILED: " + strings.Join(wrong, ", ") + ".", false
	}
	return "OK: every line came once, in its order, byte for byte; the three replicas are identical.", true
}
