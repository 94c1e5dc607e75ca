package remoting

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// plain[c] is true for the ASCII bytes that stand in a JSON string as they are.
var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// appendJSONString appends s as a JSON string that a strict parser takes: control characters (encoded properties are full of 0x01 and
// 0x02) as \u00XX, invalid UTF-8 as U+FFFD.
func appendJSONString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for {
		i := 0
		for i < len(s) && plain[s[i]] {
			i++
		}
		dst = append(dst, s[:i]...)
		if s = s[i:]; s == "" {
			return append(dst, '"')
		}
		switch c := s[0]; {
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRuneInString(s)
			dst = utf8.AppendRune(dst, r) // RuneError where s is invalid
			s = s[n:]
			continue
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		s = s[1:]
	}
}

// jsonWriter appends JSON text. Members are written in alphabetical order by its callers, as fastjson does.
type jsonWriter struct {
	b []byte
}

// sep writes the comma before a member or element unless it is the first one.
func (w *jsonWriter) sep() {
	if n := len(w.b); n > 0 {
		switch w.b[n-1] {
		case '{', '[', ':', ',':
		default:
			w.b = append(w.b, ',')
		}
	}
}

func (w *jsonWriter) open(c byte)  { w.sep(); w.b = append(w.b, c) }
func (w *jsonWriter) close(c byte) { w.b = append(w.b, c) }

func (w *jsonWriter) key(k string) {
	w.sep()
	w.b = append(appendJSONString(w.b, k), ':')
}

// member opens the object or array that is the value of member k.
func (w *jsonWriter) member(k string, c byte) {
	w.key(k)
	w.b = append(w.b, c)
}

func (w *jsonWriter) str(k, v string) {
	w.key(k)
	w.b = appendJSONString(w.b, v)
}

func (w *jsonWriter) optional(k, v string) {
	if v != "" {
		w.str(k, v)
	}
}

func (w *jsonWriter) int(k string, v int64) {
	w.key(k)
	w.b = strconv.AppendInt(w.b, v, 10)
}

func (w *jsonWriter) bool(k string, v bool) {
	w.key(k)
	w.b = strconv.AppendBool(w.b, v)
}

// float writes a number with a decimal point, as Java prints a double of ordinary size.
func (w *jsonWriter) float(k string, v float64) {
	w.key(k)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		v = 0 // not expressible
	}
	at := len(w.b)
	w.b = strconv.AppendFloat(w.b, v, 'f', -1, 64)
	for _, c := range w.b[at:] {
		if c == '.' {
			return
		}
	}
	w.b = append(w.b, ".0"...)
}

func (w *jsonWriter) element(v string) {
	w.sep()
	w.b = appendJSONString(w.b, v)
}

// strings writes an array, [] for a nil one: Java clients fail on null.
func (w *jsonWriter) strings(k string, list []string) {
	w.member(k, '[')
	for _, v := range list {
		w.element(v)
	}
	w.close(']')
}

// newObject begins an object behind dst, end closes it.
func newObject(dst []byte) *jsonWriter { return &jsonWriter{append(dst, '{')} }

func (w *jsonWriter) end() []byte { return append(w.b, '}') }

// number writes an element.
func (w *jsonWriter) number(v int64) {
	w.sep()
	w.b = strconv.AppendInt(w.b, v, 10)
}
