package sql92

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
)

// properties are names and values.
func properties(pairs ...string) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for i := 0; i+1 < len(pairs); i += 2 {
			if !yield([]byte(pairs[i]), []byte(pairs[i+1])) {
				return
			}
		}
	}
}

func mustParse(t testing.TB, text string) *Expression {
	t.Helper()
	e, err := Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return e
}

// The values of conditions about a message with a few properties; m and n are
// missing.
func TestValues(t *testing.T) {
	const yes, no, nothing, ends = "TRUE", "FALSE", "NULL", "ends"
	message := properties("a", "7", "b", "12", "d", "7.5", "big", "3000000000", "word", "blue sky", "t", "True", "f", "no",
		"minus", "-3", "plus", "+7", "space", " 7 ", "nan", "NaN", "inf", "-Infinity", "hex", "0x1p3", "java", "7d", "zero", "0", "nzero", "-0.0",
		"quote", "it's", "TAGS", "A", "KEYS", "k1 k2", "_x", "1", "$y", "2", "A", "upper", "twice", "1", "twice", "2", "chinese", "你好")
	for _, x := range []struct{ want, text string }{
		// Comparisons.
		{yes, "a = 7"}, {no, "a = 8"}, {no, "a <> 7"}, {yes, "a <> 8"}, {yes, "a < 8"}, {yes, "a <= 7"}, {no, "a < 7"}, {yes, "a > 6"},
		{yes, "a >= 7"}, {no, "a > 7"}, {yes, "7 = a"}, {yes, "8 > a"}, {yes, "b > a"}, {yes, "b > 7"}, {yes, "1 < 2"}, {no, "2 = 3"},
		{yes, "a = 7L"}, {yes, "a = 7l"}, {yes, "a = 7.0"}, {yes, "a = 7."}, {yes, "a < 7.5"}, {yes, "a < .8e1"}, {yes, "a = 70E-1"},
		{yes, "minus = -3"}, {yes, "minus < -2.5"}, {yes, "plus = 7"}, {yes, "plus = +7"}, {yes, "minus > - 4"}, {yes, "minus = - - -3"},
		{yes, "7 = 7.0"}, {yes, "7 < 3000000000"}, {yes, "-5 < 4"},
		// What a text is read as.
		{ends, "d > 5"}, {yes, "d > 5.0"}, {yes, "d = 7.5"}, {ends, "d = 7"}, {ends, "d <> 7"}, {ends, "big > 5"}, {yes, "big > 5.0"},
		{yes, "big = 3000000000"}, {yes, "a < 3000000000"}, {ends, "d < 3000000000"}, {ends, "word = 5"}, {ends, "word <> 5"}, {ends, "word > 5.5"},
		{ends, "space = 7"}, {yes, "space = 7.0"}, {yes, "nan > 1e300"}, {yes, "inf < -1e300"}, {yes, "hex = 8.0"}, {ends, "hex = 8"},
		{yes, "java = 7.0"}, {ends, "java = 7"}, {yes, "zero = 0"}, {yes, "nzero < zero"}, {no, "nzero = zero"},
		{yes, "t = TRUE"}, {no, "t = FALSE"}, {yes, "f = false"}, {yes, "word = FALSE"}, {yes, "word <> TRUE"}, {ends, "TRUE = t"}, {ends, "FALSE <> t"},
		{yes, "word = 'blue sky'"}, {yes, "word <> 'Blue sky'"}, {yes, "a = '7'"}, {no, "d = '7.50'"}, {yes, "quote = 'it''s'"}, {no, "word = ''"},
		{yes, "a > minus"}, {yes, "java > minus"}, {yes, "d > a"}, {ends, "word > a"}, {ends, "a < word"}, {no, "a = b"}, {no, "a = java"}, {yes, "a <= java"},
		{yes, "chinese = '你好'"}, {yes, "chinese STARTSWITH '你'"},
		{no, "1 = TRUE"}, {yes, "TRUE = TRUE"}, {no, "TRUE = FALSE"}, {no, "'x' = TRUE"}, {yes, "'x' = 'x'"}, {ends, "'x' = 5"}, {yes, "5 = '5'"},
		// Three values.
		{nothing, "m = 1"}, {nothing, "m <> 1"}, {nothing, "m > 1"}, {no, "1 = m"}, {yes, "1 <> m"}, {nothing, "1 > m"}, {yes, "m = n"}, {no, "m <> n"},
		{nothing, "m = a"}, {no, "a = m"}, {nothing, "NOT (m = 1)"}, {nothing, "m = 1 AND a = 7"}, {no, "m = 1 AND a = 8"}, {yes, "m = 1 OR a = 7"},
		{nothing, "m = 1 OR a = 8"}, {no, "a = 8 AND m = 1"}, {nothing, "a = 7 AND m = 1"}, {yes, "a = 7 OR m = 1"}, {nothing, "a = 8 OR m = 1"},
		{nothing, "NULL"}, {nothing, "NOT NULL"}, {yes, "TRUE"}, {no, "false"}, {yes, "NOT FALSE"}, {nothing, "a = 7 AND NULL AND TRUE"},
		{no, "NULL AND NULL AND FALSE"}, {yes, "NULL OR FALSE OR TRUE"},
		// What ends an evaluation, and what comes before it.
		{ends, "word > 5 OR a = 7"}, {yes, "a = 7 OR word > 5"}, {ends, "a = 8 OR word > 5"}, {no, "a = 8 AND word > 5"}, {ends, "word > 5 AND a = 8"},
		{ends, "NOT (word > 5)"}, {ends, "m = 1 OR word > 5 OR a = 7"}, {nothing, "m > word"}, {ends, "(word > 5) IS NULL"}, {ends, "m = (word > 5)"},
		// NULL.
		{yes, "m IS NULL"}, {no, "m IS NOT NULL"}, {no, "a IS NULL"}, {yes, "a IS NOT NULL"}, {yes, "NULL IS NULL"}, {no, "5 IS NULL"},
		{yes, "(m = 1) IS NULL"}, {no, "(a = 1) IS NULL"}, {no, "a IS NULL IS NULL"}, {yes, "a IS NULL = FALSE"},
		// Ranges.
		{yes, "a BETWEEN 5 AND 9"}, {yes, "a BETWEEN 7 AND 7"}, {no, "a BETWEEN 8 AND 9"}, {no, "a BETWEEN 1 AND 6"}, {no, "a NOT BETWEEN 5 AND 9"},
		{yes, "a NOT BETWEEN 9 AND 10"}, {yes, "a NOT BETWEEN 9 AND 5"}, {yes, "a BETWEEN 5 AND 9 AND b BETWEEN 10 AND 20"},
		{nothing, "m BETWEEN 1 AND 2"}, {nothing, "m NOT BETWEEN 1 AND 2"}, {nothing, "a BETWEEN m AND 9"}, {no, "a BETWEEN m AND 5"},
		{no, "a BETWEEN 8 AND m"}, {nothing, "a BETWEEN 5 AND m"}, {yes, "a NOT BETWEEN m AND 5"}, {nothing, "a NOT BETWEEN m AND 9"},
		{ends, "word BETWEEN 1 AND 2"}, {ends, "a BETWEEN word AND 9"}, {no, "a BETWEEN 8 AND word"}, {ends, "a BETWEEN 5 AND word"},
		{ends, "d BETWEEN 1 AND 9"}, {yes, "d BETWEEN 1.0 AND 9.0"}, {yes, "a BETWEEN 1 AND 7.5"}, {yes, "minus BETWEEN -5 AND -1"},
		{no, "minus BETWEEN -1 AND -5"}, {no, "a BETWEEN 5 AND -1"}, {yes, "7 BETWEEN a AND b"}, {nothing, "-a BETWEEN 1 AND 2"}, {yes, "-(5) BETWEEN -6 AND -4"},
		// Lists.
		{yes, "word IN ('red', 'blue sky')"}, {no, "word IN ('red')"}, {no, "word NOT IN ('blue sky')"}, {yes, "word NOT IN ('x', 'y')"},
		{nothing, "m IN ('x')"}, {nothing, "m NOT IN ('x')"}, {yes, "a IN ('7')"}, {yes, "(a) IN ('7')"}, {yes, "+a IN ('7', '7')"}, {yes, "quote IN ('it''s')"},
		// Texts.
		{yes, "word CONTAINS 'e s'"}, {no, "word CONTAINS 'E'"}, {no, "word NOT CONTAINS 'e s'"}, {yes, "word NOT CONTAINS 'x'"},
		{yes, "word STARTSWITH 'blue'"}, {no, "word STARTSWITH 'sky'"}, {yes, "word NOT STARTSWITH 'sky'"}, {yes, "word ENDSWITH 'sky'"},
		{no, "word NOT ENDSWITH 'sky'"}, {no, "m CONTAINS 'x'"}, {no, "m NOT CONTAINS 'x'"}, {no, "m NOT STARTSWITH 'x'"}, {no, "m NOT ENDSWITH 'x'"},
		{no, "word CONTAINS ''"}, {no, "word NOT CONTAINS ''"}, {no, "5 CONTAINS '5'"}, {no, "5 NOT CONTAINS '5'"}, {yes, "'abc' CONTAINS 'b'"},
		{no, "NOT a CONTAINS '7'"}, {yes, "NOT (a CONTAINS '8')"},
		// Conditions that are properties; NOT binds tightly.
		{no, "t"}, {no, "word"}, {nothing, "m"}, {yes, "NOT t"}, {nothing, "NOT m"}, {no, "NOT a = 7"}, {yes, "NOT (a = 8)"}, {yes, "NOT NOT (a = 7)"},
		{yes, "NOT m IS NULL"}, {no, "NOT a IS NULL"}, {yes, "NOT t AND a = 7"}, {no, "(a = 7) = 7"}, {yes, "(a = 7) = TRUE"}, {yes, "a = 7 = TRUE"},
		{no, "TRUE = (a = 8)"}, {ends, "(a = 7) = t"}, {yes, "t = (a = 7)"}, {nothing, "-t = 1"}, {no, "1 = -a"}, {yes, "m = -a"},
		// Precedence.
		{yes, "a = 7 OR a = 8 AND a = 9"}, {no, "(a = 7 OR a = 8) AND a = 9"}, {yes, "a = 9 AND a = 8 OR a = 7"},
		// Names and how things are written.
		{yes, "TAGS = 'A'"}, {yes, "KEYS CONTAINS 'k2'"}, {yes, "_x = 1"}, {yes, "$y = 2"}, {yes, "A = 'upper'"}, {yes, "twice = 2"}, {nothing, "Word = 'x'"},
		{yes, "a\t=\n7\r\f"}, {yes, "a=7and b=12"}, {yes, "a = 7 Or m iS nULl"}, {yes, "a between 5 And 9"}, {yes, "a =/* 8 */7 -- not 8"},
		{yes, "-- first\na = 7"}, {yes, "-- first\ra = 7"}, {yes, "/***/a/* * / **/ = 7"}, {yes, "a = 7--"}, {yes, "((((a)))) = (7)"}, {yes, "a=-(-7)"},
		{yes, "word = 'blue sky'-- it's"}, {no, "word = '-- /* x'"},
	} {
		e := mustParse(t, x.text)
		got := e.root.eval(e.valuesOf(message))
		if is := map[bool]string{true: ends, false: got.String()}[got.kind == broken]; is != x.want {
			t.Errorf("%s is %s, want %s", x.text, is, x.want)
		}
		if e.Match(message) != (x.want == yes) {
			t.Errorf("%s: Match says %t", x.text, e.Match(message))
		}
	}
}

func TestErrors(t *testing.T) {
	for _, x := range []struct {
		text string
		at   int
		want string // part of it
	}{
		{"", 1, "unexpected the end"},
		{"   ", 4, "unexpected the end"},
		{"-- all of it", 13, "unexpected the end"},
		{"a > 'x'", 5, "'x' can't be compared"},
		{"'x' < a", 1, "only numbers"},
		{"a >= TRUE", 6, "TRUE can't be compared"},
		{"a <= NULL", 6, "NULL can't be compared"},
		{"(a = 1) > 2", 1, "a condition can't be compared"},
		{"a > 1 > 2", 1, "a condition"},
		{"NOT a > 1", 1, "a condition"},
		{"NOT a BETWEEN 1 AND 2", 1, "a condition"},
		{"a = NULL", 3, "IS NULL"},
		{"a <> NULL", 3, "IS NOT NULL"},
		{"NULL = a", 6, "IS NULL"},
		{"TRUE = 1", 6, "TRUE can't be compared with 1"},
		{"a BETWEEN 5 AND 1", 11, "BETWEEN 5 AND 1"},
		{"a BETWEEN 1.5 AND 1", 11, "BETWEEN 1.5 AND 1"},
		{"a BETWEEN 3000000000 AND 5", 11, "greater"},
		{"a BETWEEN +5 AND (1)", 11, "greater"},
		{"a BETWEEN 'a' AND 'b'", 11, "only numbers"},
		{"a BETWEEN NULL AND 5", 11, "NULL"},
		{"a BETWEEN 1, 2", 12, `unexpected ",", want AND`},
		{"a BETWEEN 1", 12, "unexpected the end, want AND"},
		{"a IN ()", 7, "a text in quotes"},
		{"a IN (1, 2)", 7, "a text in quotes"},
		{"a IN ('x', b)", 12, "a text in quotes"},
		{"a IN ('x'", 10, "want )"},
		{"a IN 'x'", 6, "want ("},
		{"5 IN ('x')", 1, "left of IN is 5"},
		{"NOT a IN ('x')", 1, "left of IN is a condition"},
		{"-a IN ('x')", 1, "left of IN is a signed value"},
		{"a CONTAINS b", 12, "a text in quotes"},
		{"a NOT = 1", 7, "behind NOT"},
		{"a IS 5", 6, "want NULL"},
		{"a IS NOT 5", 10, "want NULL"},
		{"5", 1, "5 is no condition"},
		{"'x'", 1, "'x' is no condition"},
		{"-a", 1, "a signed value is no condition"},
		{"a = 1 AND 5", 11, "5 is no condition"},
		{"NOT 5", 5, "5 is no condition"},
		{"a = 1 OR", 9, "unexpected the end"},
		{"(a = 1", 7, "want )"},
		{"a = 1)", 6, `unexpected ")", want the end`},
		{"a LIKE 'x'", 3, "CONTAINS"},
		{"a = 1 b", 7, "want the end, AND or OR"},
		{"a == 1", 4, "equality is ="},
		{"a != 1", 3, "inequality is <>"},
		{"a.b = 1", 2, "no dots"},
		{"a.5 = 1", 2, "no dots"},
		{"a = 1 && b = 2", 7, "AND"},
		{"a = 1 || b = 2", 7, "OR"},
		{"a = \"x\"", 5, "single quotes"},
		{"a * 2 = 1", 3, "arithmetic"},
		{"a + 2 = 1", 3, `unexpected "+"`},
		{"a = 'x", 5, "closing quote"},
		{"a = 'x''", 5, "closing quote"},
		{"a = 1 /* x", 7, "no end"},
		{"a = 007", 5, "begins with 0"},
		{"a = 0x10", 6, `"x10"`},
		{"a = 0L", 6, `"L"`},
		{"a = 5e", 6, `"e"`},
		{"a = 1..5", 7, `".5"`},
		{"a = 9223372036854775808", 5, "64 bits"},
		{"a = -9223372036854775808", 6, "64 bits"},
		{"a = 0.0", 5, "decimal 0.0"},
		{"a = 1e309", 5, "1e309"},
		{"a = 1e-400", 5, "1e-400"},
		{"a = 'é' ü", 9, "'ü'"},
		{"日本 = 1", 1, "'日'"},
		{"a = 1 \x00", 7, `'\x00'`},
		{"a = \xff", 5, "unexpected"},
		{"abs(a) = 1", 4, `"("`},
		{"AND", 1, `"AND"`},
		{"between = 1", 1, `"BETWEEN"`},
	} {
		_, err := Parse(x.text)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q: %v", x.text, err)
			continue
		}
		if e.Position != x.at || !strings.Contains(e.Text, x.want) {
			t.Errorf("%q: %v; want it at %d, with %q", x.text, e, x.at, x.want)
		}
	}
}

// What is large is refused, and what is almost so is parsed, kept and evaluated at
// a cost in proportion.
func TestBounds(t *testing.T) {
	repeat := func(s string, n int) string { return strings.Repeat(s, n) }
	list := func(n int) string {
		var texts []string
		for i := range n {
			texts = append(texts, fmt.Sprint("'", i%1000, "'"))
		}
		return "a IN (" + strings.Join(texts, ",") + ")"
	}
	for _, x := range []struct {
		name, good, bad, want string
	}{
		{"length", repeat(" ", MaxLength-5) + "a = 1", repeat(" ", MaxLength-4) + "a = 1", "bytes"},
		{"parentheses", repeat("(", MaxDepth) + "a" + repeat(")", MaxDepth), repeat("(", MaxDepth+1) + "a" + repeat(")", MaxDepth+1), "levels"},
		{"open parentheses", "a", repeat("(", MaxLength), "levels"},
		{"NOT", repeat("NOT ", MaxDepth) + "a", repeat("NOT ", MaxDepth+1) + "a", "levels"},
		{"minus", "a = " + repeat("- ", MaxDepth) + "1", "a = " + repeat("- ", MaxDepth+1) + "1", "levels"},
		{"plus", "a = " + repeat("+ ", MaxDepth) + "1", "a = " + repeat("+", 5000) + "1", "levels"},
		{"OR", "a = 1" + repeat(" OR a=1", 1000), "a = 1" + repeat(" OR a=1", 2000), "terms"},
		{"AND of properties", "a" + repeat(" AND a", 2000), "a" + repeat(" AND a", 2050), "terms"},
		{"list", list(4000), list(5000), "terms"},
		{"IS NULL", "a" + repeat(" IS NULL", 2000), "a" + repeat(" IS NULL", 3000), "terms"},
		{"=", "a" + repeat("=a", 2000), "a" + repeat("=a", 2100), "terms"},
		// Each range within the left of another: evaluated once, not twice a level.
		{"nested ranges", repeat("-(", 50) + "a" + repeat(" BETWEEN 1 AND 2)", 50) + " = 1", repeat("-(", 51) + "a" + repeat(" BETWEEN 1 AND 2)", 51) + " = 1", "levels"},
	} {
		e, err := Parse(x.good)
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		e.Match(properties("a", "7"))
		if e.Size() > 160*(MaxTerms+1)+MaxLength {
			t.Errorf("%s: %d bytes", x.name, e.Size())
		}
		if _, err := Parse(x.bad); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s, too much: %v", x.name, err)
		}
	}
}

// An expression may be used by many at once.
func TestSharedByGoroutines(t *testing.T) {
	e := mustParse(t, "a > 5 AND word IN ('x', 'y') OR m CONTAINS 'z'")
	done := make(chan bool)
	for i := range 8 {
		go func() {
			ok := true
			for n := range 1000 {
				want := (i+n)%10 > 5
				ok = ok && e.Match(properties("a", fmt.Sprint((i+n)%10), "word", "x")) == want
			}
			done <- ok
		}()
	}
	for range 8 {
		if !<-done {
			t.Error("another result")
		}
	}
}

var fuzzSeeds = []string{
	"a > 5 AND b <> 'x'", "a BETWEEN 1 AND 2.5e3", "a NOT IN ('x','it''s') OR b IS NOT NULL", "NOT (a CONTAINS 'x') AND -b < +3L",
	"/* c */ a = TRUE -- end", "((a)) = (NULL)", "a = 0.0", "$x_1 NOT ENDSWITH 'y' = FALSE", "'x' = b", "a\x00", "a = 'ü' OR ü", "-(-(a) BETWEEN 1 AND 2)",
}

func FuzzParse(f *testing.F) {
	for i, s := range fuzzSeeds {
		f.Add(s, "7", fuzzSeeds[(i+1)%len(fuzzSeeds)])
	}
	f.Fuzz(func(t *testing.T, expression, a, b string) {
		e, err := Parse(expression)
		if err != nil {
			var where *Error
			if !errors.As(err, &where) || where.Position < 1 || where.Position > len([]rune(expression))+1 || len(where.Text) > 400 {
				t.Fatalf("%q: %#v", expression, err)
			}
			return
		}
		if e.root.boolean() || e.root.op == opCast {
			message := properties("a", a, "b", b)
			got := e.root.eval(e.valuesOf(message))
			if !slices.Contains([]kind{null, truth, broken}, got.kind) || got.kind == truth && got.i>>1 != 0 {
				t.Fatalf("%q is %#v", expression, got)
			}
			// In parentheses it means the same, and its negation is the opposite.
			same, err := Parse("(" + expression + "\n)")
			if err == nil && same.root.eval(same.valuesOf(message)) != got {
				t.Fatalf("%q is another in parentheses", expression)
			}
			not, err := Parse("NOT(" + expression + "\n)")
			if err == nil && not.root.eval(not.valuesOf(message)) != got.not() {
				t.Fatalf("%q: its negation is not its opposite", expression)
			}
			return
		}
		t.Fatalf("%q is no condition", expression)
	})
}

func BenchmarkMatch(b *testing.B) {
	e := mustParse(b, "(region IN ('eu', 'us') AND price BETWEEN 10 AND 20.5) OR vip = TRUE")
	message := properties("UNIQ_KEY", "0A0000090001001122330000000A0001", "TAGS", "A", "region", "eu", "price", "12", "WAIT", "true")
	for b.Loop() {
		if !e.Match(message) {
			b.Fatal("no match")
		}
	}
}
