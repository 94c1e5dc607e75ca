package sql92

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
)

type kind uint8

const (
	null kind = iota
	truth
	integer32
	integer64
	decimal
	text
	// broken is no value: the evaluation ends, and the message does not match.
	broken
)

// value is what an expression evaluates to.
type value struct {
	kind kind
	i    int64 // of integers; 1 for TRUE
	f    float64
	s    string
}

func boolean(b bool) value {
	if b {
		return value{kind: truth, i: 1}
	}
	return value{kind: truth}
}

// integer is that of an integer literal: of 32 bits if it fits.
func integer(n int64) value {
	if n == int64(int32(n)) {
		return value{kind: integer32, i: n}
	}
	return value{kind: integer64, i: n}
}

func (v value) number() bool { return v.kind == integer32 || v.kind == integer64 || v.kind == decimal }

func (v value) isTrue() bool  { return v == boolean(true) }
func (v value) isFalse() bool { return v == boolean(false) }

func (v value) negate() value {
	switch v.kind {
	case integer32, integer64:
		v.i = -v.i
		return v
	case decimal:
		v.f = -v.f
		return v
	case broken:
		return v
	}
	return value{} // text has no sign, a number in a property neither
}

// decimal is a number as a decimal.
func (v value) decimal() float64 {
	if v.kind == decimal {
		return v.f
	}
	return float64(v.i)
}

// compare orders two values of which neither is NULL: -1, 0 or 1. A text is read
// as what the other one is; no means that it can't be. What can't be compared at
// all is -1, so it is not equal.
func compare(a, b value) (c int, ok bool) {
	switch {
	case a.kind == text && b.kind == text:
		return strings.Compare(a.s, b.s), true
	case a.kind == text:
		if a, ok = read(a.s, b.kind); !ok {
			return 0, false
		}
	case b.kind == text:
		// RocketMQ fails to read a text on the right of a boolean.
		if a.kind == truth {
			return 0, false
		}
		if b, ok = read(b.s, a.kind); !ok {
			return 0, false
		}
	}
	switch {
	case (a.kind == truth) != (b.kind == truth):
		return -1, true
	case a.kind == decimal || b.kind == decimal:
		return compareDecimals(a.decimal(), b.decimal()), true
	}
	return cmp.Compare(a.i, b.i), true
}

// compareDecimals is Java's order: -0 is less than 0, and NaN, which equals
// itself, greater than all.
func compareDecimals(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	case a == b && (a != 0 || math.Signbit(a) == math.Signbit(b)):
		return 0
	case a == b:
		return cmp.Compare(b2i(math.Signbit(b)), b2i(math.Signbit(a)))
	}
	return cmp.Compare(b2i(math.IsNaN(a)), b2i(math.IsNaN(b)))
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// read reads a text as a value of a kind.
func read(s string, as kind) (value, bool) {
	switch as {
	case truth:
		return boolean(strings.EqualFold(s, "true")), true
	case integer32, integer64:
		bits := 64
		if as == integer32 {
			bits = 32
		}
		n, err := strconv.ParseInt(s, 10, bits)
		return value{kind: as, i: n}, err == nil
	default:
		f, ok := readDecimal(s)
		return value{kind: decimal, f: f}, ok
	}
}

// readDecimal reads what Java takes for a double: space around it, a D or F behind
// it, NaN, Infinity, hexadecimals with an exponent; beyond the range it is
// infinite, or 0.
func readDecimal(s string) (float64, bool) {
	s = strings.TrimFunc(s, func(r rune) bool { return r <= ' ' })
	body := strings.TrimLeft(s, "+-")
	if len(s)-len(body) > 1 {
		return 0, false
	}
	if body != "NaN" && body != "Infinity" {
		if body == "" || !digit(body[0]) && body[0] != '.' || strings.ContainsRune(body, '_') {
			return 0, false // Go reads more: nan, inf, 1_000
		}
		hex := len(body) > 1 && (body[1] == 'x' || body[1] == 'X')
		// In a hexadecimal D and F are digits, unless they are behind the exponent.
		if last := len(s) - 1; strings.IndexByte("dDfF", s[last]) >= 0 && (!hex || strings.ContainsAny(body, "pP")) {
			s = s[:last]
		}
	}
	f, err := strconv.ParseFloat(strings.TrimPrefix(s, "+"), 64)
	if ne, ok := err.(*strconv.NumError); ok && ne.Err == strconv.ErrRange {
		err = nil
	}
	return f, err == nil
}

// String is the value as it is written in an expression.
func (v value) String() string {
	switch v.kind {
	case null:
		return "NULL"
	case truth:
		return strings.ToUpper(strconv.FormatBool(v.isTrue()))
	case decimal:
		return strconv.FormatFloat(v.f, 'g', -1, 64)
	case text:
		return fmt.Sprintf("'%.40s'", v.s)
	}
	return strconv.FormatInt(v.i, 10)
}
