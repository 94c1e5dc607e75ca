package sql92

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokenEnd tokenKind = iota
	tokenName
	tokenKeyword // its text is in capitals
	tokenSymbol
	tokenText // its text is without quotes
	tokenInteger
	tokenDecimal
)

type token struct {
	kind tokenKind
	text string
	at   int // byte of the expression
}

func (t token) is(kind tokenKind, text string) bool { return t.kind == kind && t.text == text }

func (t token) String() string {
	switch t.kind {
	case tokenEnd:
		return "the end"
	case tokenText:
		return fmt.Sprintf("'%.40s'", t.text)
	}
	return fmt.Sprintf("%.40q", t.text)
}

var keywords = map[string]bool{
	"NOT": true, "AND": true, "OR": true, "BETWEEN": true, "IN": true, "TRUE": true, "FALSE": true, "NULL": true, "IS": true,
	"CONTAINS": true, "STARTSWITH": true, "ENDSWITH": true,
}

// symbols are in the order they are looked for.
var symbols = []string{"<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "+", "-"}

// failure is an error at a byte.
type failure struct {
	at   int
	text string
}

// lexer cuts an expression into tokens. The first error stays, and makes all that
// follows the end.
type lexer struct {
	text string
	at   int
	err  *failure
}

func (l *lexer) fail(at int, format string, args ...any) token {
	if l.err == nil {
		l.err = &failure{at, fmt.Sprintf(format, args...)}
	}
	return token{kind: tokenEnd, at: at}
}

func (l *lexer) next() token {
	l.skip()
	if l.err != nil || l.at == len(l.text) {
		return token{kind: tokenEnd, at: l.at}
	}
	at, c := l.at, l.text[l.at]
	switch {
	case letter(c):
		l.at += span(l.text[at:], func(c byte) bool { return letter(c) || digit(c) })
		word := l.text[at:l.at]
		if upper := strings.ToUpper(word); keywords[upper] {
			return token{tokenKeyword, upper, at}
		}
		return token{tokenName, word, at}
	case digit(c), c == '.' && at+1 < len(l.text) && digit(l.text[at+1]):
		return l.number()
	case c == '\'':
		return l.quoted()
	}
	for _, s := range symbols {
		if strings.HasPrefix(l.text[at:], s) {
			l.at += len(s)
			return token{tokenSymbol, s, at}
		}
	}
	r, _ := utf8.DecodeRuneInString(l.text[at:])
	return l.fail(at, "unexpected %q%s", r, hint(l.text[at:]))
}

// skip passes over space and comments.
func (l *lexer) skip() {
	for {
		l.at += span(l.text[l.at:], func(c byte) bool { return strings.IndexByte(" \t\n\r\f", c) >= 0 })
		switch rest := l.text[l.at:]; {
		case strings.HasPrefix(rest, "--"):
			l.at += span(rest, func(c byte) bool { return c != '\n' && c != '\r' })
		case strings.HasPrefix(rest, "/*"):
			n := strings.Index(rest[2:], "*/")
			if n < 0 {
				l.fail(l.at, "the comment has no end")
				l.at = len(l.text)
				return
			}
			l.at += 2 + n + 2
		default:
			return
		}
	}
}

func (l *lexer) number() token {
	at, decimal := l.at, false
	digits := func() int {
		n := span(l.text[l.at:], digit)
		l.at += n
		return n
	}
	digits()
	whole := l.text[at:l.at]
	if strings.HasPrefix(l.text[l.at:], ".") {
		decimal = true
		l.at++
		digits()
	}
	// An E that no number follows is not part of this one.
	if behind := l.at; l.skipAny("eE") {
		l.skipAny("+-")
		if digits() > 0 {
			decimal = true
		} else {
			l.at = behind
		}
	}
	switch {
	case decimal:
		return token{tokenDecimal, l.text[at:l.at], at}
	case len(whole) > 1 && whole[0] == '0':
		return l.fail(at, "the number %.40s begins with 0", whole)
	}
	if whole != "0" {
		l.skipAny("lL")
	}
	return token{tokenInteger, whole, at}
}

// skipAny passes over one of some characters.
func (l *lexer) skipAny(chars string) bool {
	if l.at < len(l.text) && strings.IndexByte(chars, l.text[l.at]) >= 0 {
		l.at++
		return true
	}
	return false
}

func (l *lexer) quoted() token {
	at := l.at
	for i := at + 1; ; i += 2 { // behind a quote that is doubled
		n := strings.IndexByte(l.text[i:], '\'')
		if n < 0 {
			return l.fail(at, "the text has no closing quote")
		}
		i += n
		if !strings.HasPrefix(l.text[i:], "''") {
			l.at = i + 1
			return token{tokenText, strings.ReplaceAll(l.text[at+1:i], "''", "'"), at}
		}
	}
}

func letter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c == '$'
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// span is how many bytes at the beginning of s are of a kind.
func span(s string, of func(byte) bool) int {
	for i := range len(s) {
		if !of(s[i]) {
			return i
		}
	}
	return len(s)
}

// hints tell those who come from other dialects what to write.
var hints = []struct{ found, hint string }{
	{"==", "equality is ="},
	{"!=", "inequality is <>"},
	{"LIKE", "there is no LIKE: use CONTAINS, STARTSWITH or ENDSWITH"},
	{"&&", "write AND"},
	{"||", "write OR"},
	{"\"", "texts are in single quotes"},
	{".", "property names have no dots"},
	{"*", "there is no arithmetic"},
	{"/", "there is no arithmetic"},
}

func hint(found string) string {
	for _, h := range hints {
		if n := len(h.found); len(found) >= n && strings.EqualFold(found[:n], h.found) {
			return "; " + h.hint
		}
	}
	return ""
}
