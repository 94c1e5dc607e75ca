package remoting

import (
	"unicode/utf16"
	"unicode/utf8"
)

// The strings and numbers of a scanner.

// quoted takes a string and returns its unescaped bytes, which may lie in the text.
func (s *scanner) quoted() []byte {
	if s.peek() != '"' {
		s.fail("expected a string")
		return nil
	}
	s.pos++
	start := s.pos
	for i, c := range s.b[start:] {
		if c != '"' && c != '\\' {
			continue
		}
		i += start
		if c == '"' {
			s.pos = i + 1
			return s.b[start:i]
		}
		if s.owns {
			return s.unescape(start, i)
		}
		s.pos = start - 1
		s.skipString()
		if s.err != nil {
			return nil
		}
		own := scanner{b: append([]byte(nil), s.b[start:s.pos]...), owns: true}
		t := own.unescape(0, i-start)
		s.err = own.err
		return t
	}
	s.fail("unterminated string")
	return nil
}

// unescape goes on with a string begun at start whose first backslash is at i. What it writes never overtakes what it reads: an escape is
// longer than what it stands for.
func (s *scanner) unescape(start, i int) []byte {
	w := i
	b := s.b
	for i < len(b) {
		c := b[i]
		if c == '"' {
			s.pos = i + 1
			return b[start:w]
		}
		if c != '\\' {
			b[w] = c
			w++
			i++
			continue
		}
		if i+1 >= len(b) {
			break
		}
		i++
		switch b[i] {
		case '"', '\\', '/', '\'':
			c = b[i]
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r := hex4(b[i+1:])
			if r < 0 {
				s.pos = i
				s.fail(`bad \u escape`)
				return nil
			}
			i += 5
			if r < utf8.RuneSelf {
				b[w] = byte(r)
				w++
				continue
			}
			if utf16.IsSurrogate(r) {
				// A lone half becomes U+FFFD, as in every decoder that insists on UTF-8.
				low := rune(-1)
				if i+1 < len(b) && b[i] == '\\' && b[i+1] == 'u' {
					low = hex4(b[i+2:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					i += 6
				}
			}
			w += utf8.EncodeRune(b[w:w+4], r)
			continue
		default:
			s.pos = i
			s.fail("unknown escape")
			return nil
		}
		b[w] = c
		w++
		i++
	}
	s.fail("unterminated string")
	return nil
}

func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// number takes a number and returns its literal text: 1712345678901 must not turn into 1.712345678901e12.
func (s *scanner) number() []byte {
	s.peek()
	start := s.pos
	digits := false
	for s.pos < len(s.b) {
		switch c := s.b[s.pos]; {
		case '0' <= c && c <= '9':
			digits = true
		case c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E':
		default:
			goto end
		}
		s.pos++
	}
end:
	if !digits {
		s.fail("expected a value")
		return nil
	}
	return s.b[start:s.pos]
}

func (s *scanner) word(w string) {
	if len(s.b)-s.pos < len(w) || string(s.b[s.pos:s.pos+len(w)]) != w {
		s.fail("expected a value")
		return
	}
	s.pos += len(w)
}

// skipString passes over a string without unescaping it: text must be able to return the JSON around it unchanged.
func (s *scanner) skipString() {
	for i := s.pos + 1; i < len(s.b); i++ {
		switch s.b[i] {
		case '\\':
			i++
		case '"':
			s.pos = i + 1
			return
		}
	}
	s.fail("unterminated string")
}

// parseInt reads a decimal integer without allocating.
func parseInt(t []byte, bits int) (int64, bool) {
	neg := false
	i := 0
	if len(t) > 0 && (t[0] == '-' || t[0] == '+') {
		neg = t[0] == '-'
		i = 1
	}
	if i == len(t) || len(t)-i > 19 {
		return 0, false
	}
	var u uint64
	for ; i < len(t); i++ {
		c := t[i] - '0'
		if c > 9 {
			return 0, false
		}
		u = u*10 + uint64(c) // 19 digits fit
	}
	limit := uint64(1) << (bits - 1)
	switch {
	case neg && u <= limit:
		return -int64(u), true
	case !neg && u < limit:
		return int64(u), true
	}
	return 0, false
}
