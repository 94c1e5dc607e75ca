package remoting

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// jsonFrame makes a frame of a JSON header.
func jsonFrame(header string) []byte {
	n := uint32(len(header))
	return append(appendUint32(appendUint32(nil, n+4), n), header...)
}

func decodeJSONHeader(header string) (Command, error) {
	var c Command
	err := DecodeFrame(jsonFrame(header), &c)
	c.Body = nil
	return c, err
}

func TestJSONHeaderTolerance(t *testing.T) {
	for _, tt := range []struct {
		name, header string
		want         Command
	}{
		{"empty", `{}`, Command{}},
		{"white space", " {\t\"code\" :\r\n 1 , \"opaque\": 2 } \n", Command{Code: 1, Opaque: 2}},
		{"nulls", `{"code":1,"remark":null,"extFields":null,"language":null,"version":null,"flag":null}`, Command{Code: 1, Language: LanguageOther}},
		{"numbers as strings", `{"code":"11","opaque":"-7","flag":"1","version":"121"}`, Command{Code: 11, Opaque: -7, Flag: 1, Version: 121}},
		{"least and greatest", `{"opaque":-2147483648,"code":2147483647}`, Command{Code: 1<<31 - 1, Opaque: -1 << 31}},
		{"literals kept", `{"extFields":{"a":1712345678901,"b":1.50,"c":true,"d":false,"e":null,"f":-0,"g":1e5}}`,
			Command{Ext: Fields{{"a", "1712345678901"}, {"b", "1.50"}, {"c", "true"}, {"d", "false"}, {"f", "-0"}, {"g", "1e5"}}}},
		{"values of other shapes kept as text", `{"extFields":{"a":{"x":["y\n"]},"b":[1, 2]}}`,
			Command{Ext: Fields{{"a", `{"x":["y\n"]}`}, {"b", "[1, 2]"}}}},
		{"unknown members", `{"x":{"y":[{"z":"}"},[],{}]},"code":1,"w":[null,true,1.5e-3,"\""],"serializeTypeCurrentRPC":"JSON"}`, Command{Code: 1}},
		{"escapes", `{"remark":"\"\\\/\b\f\n\r\t\u0001\u4e2d\ud83d\ude00","extFields":{"\u0061":"\u0001\u0002"}}`,
			Command{Remark: "\"\\/\b\f\n\r\t\x01中😀", Ext: Fields{{"a", "\x01\x02"}}}},
		{"lone surrogates", `{"remark":"\ud83d \ude00\ud83dx\ud83d\u0041"}`, Command{Remark: "\ufffd \ufffd\ufffdx\ufffdA"}},
		{"raw control characters", "{\"extFields\":{\"i\":\"a\x01b\x02\"}}", Command{Ext: Fields{{"i", "a\x01b\x02"}}}},
		{"languages", `{"language":"GO"}`, Command{Language: LanguageGo}},
		{"unknown language", `{"language":"ZIG"}`, Command{Language: LanguageOther}},
		{"last member counts", `{"code":1,"code":2,"remark":"a","remark":"b"}`, Command{Code: 2, Remark: "b"}},
		{"both of a key", `{"extFields":{"k":"1","k":"2"}}`, Command{Ext: Fields{{"k", "1"}, {"k", "2"}}}},
		{"empty strings", `{"remark":"","extFields":{"":"","k":""}}`, Command{Ext: Fields{{"", ""}, {"k", ""}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeJSONHeader(tt.header)
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
}

func TestJSONHeaderRefusals(t *testing.T) {
	for _, tt := range []struct{ name, header, want string }{
		{"nothing", ``, "expected '{'"},
		{"null", `null`, "expected '{'"},
		{"array", `[]`, "expected '{'"},
		{"cut off", `{"code":1`, "expected ','"},
		{"cut off in a string", `{"remark":"a`, "unterminated"},
		{"cut off in an escape", `{"remark":"a\`, "unterminated"},
		{"cut off in \\u", `{"remark":"\u00`, `\u`},
		{"bad \\u", `{"remark":"\u00zz"}`, `\u`},
		{"bad escape", `{"remark":"\x"}`, "escape"},
		{"no colon", `{"code" 1}`, "':'"},
		{"no comma", `{"code":1 "opaque":2}`, "','"},
		{"comma at the end", `{"code":1,}`, "string"},
		{"bare name", `{code:1}`, "string"},
		{"bare word", `{"code":yes}`, "value"},
		{"text after the end", `{"code":1} x`, "after the end"},
		{"NUL after the end", "{}\x00", "NUL"},
		{"code is text", `{"code":"x"}`, `"x" is not a 32-bit integer`},
		{"code is an object", `{"code":{}}`, "32-bit"},
		{"code too large", `{"code":2147483648}`, "32-bit"},
		{"huge number", `{"opaque":1` + strings.Repeat("0", 100_000) + `}`, "32-bit"},
		{"huge exponent", `{"opaque":1e999999999}`, "32-bit"},
		{"fraction", `{"flag":1.5}`, "32-bit"},
		{"extFields is text", `{"extFields":"a"}`, "'{'"},
		{"invalid UTF-8", "{\"remark\":\"\xff\"}", "UTF-8"},
		{"surrogate in UTF-8", "{\"remark\":\"\xed\xa0\x80\"}", "UTF-8"},
		{"depth 10^5", `{"x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, "deep"},
		{"depth 10^5 of objects", strings.Repeat(`{"x":`, 100_000), "deep"},
		{"depth in a field", `{"extFields":{"x":` + strings.Repeat("[", 100_000) + `}}`, "deep"},
		{"10^6 members", `{` + strings.Repeat(`"x":1,`, 1_000_000) + `"code":1}`, "too many"},
		{"10^6 fields", `{"extFields":{` + strings.Repeat(`"x":1,`, 1_000_000) + `"y":1}}`, "too many"},
		{"10^6 elements", `{"x":[` + strings.Repeat(`1,`, 1_000_000) + `1]}`, "too many"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			frame := jsonFrame(tt.header)
			var c Command
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := DecodeFrame(frame, &c)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, ErrHeader) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v", err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
				t.Errorf("%d bytes were allocated", n)
			}
			if len(err.Error()) > 300 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestBinaryHeaderRefusals(t *testing.T) {
	good, err := AppendFrame(nil, &Command{Code: 1, Serialize: Binary, Remark: "r", Ext: Fields{{"k", "v"}}})
	if err != nil {
		t.Fatal(err)
	}
	// 8 prefix, remark length at 8+13, remark, ext length at 8+18, key length at 8+22, key, value length at 8+25.
	for _, tt := range []struct {
		name  string
		at    int
		bytes string
		want  string
	}{
		{"remark negative", 21, "\xff\xff\xff\xff", "remark of -1"},
		{"remark too long", 21, "\x00\x00\x00\x20", "remark of 32"},
		{"ext negative", 26, "\x80\x00\x00\x00", "extension fields of -"},
		{"ext too long", 26, "\x00\x00\x00\x09", "extension fields of 9"},
		{"ext too short", 26, "\x00\x00\x00\x07", "follow"},
		{"key negative", 30, "\xff\xff", "key of -1"},
		{"key too long", 30, "\x00\x10", "key of 16"},
		{"value negative", 33, "\xff\xff\xff\xff", "value of -1"},
		{"value too long", 33, "\x00\x00\x00\x02", "value of 2"},
		{"value too short", 33, "\x00\x00\x00\x00", "cut off"},
		{"value not UTF-8", 37, "\xff", "UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			frame := bytes.Clone(good)
			copy(frame[tt.at:], tt.bytes)
			var c Command
			if err := DecodeFrame(frame, &c); !errors.Is(err, ErrHeader) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v", err)
			}
		})
	}
	var many Fields
	for i := range maxFields + 1 {
		many.Add(fmt.Sprint(i), "v")
	}
	frame, err := AppendFrame(nil, &Command{Serialize: Binary, Ext: many})
	if err != nil {
		t.Fatal(err)
	}
	var c Command
	if err := DecodeFrame(frame, &c); !errors.Is(err, ErrHeader) {
		t.Errorf("%d fields: %v", len(many), err)
	}
}

func TestBinaryCodes(t *testing.T) {
	for _, tt := range []struct{ code, flag, want int32 }{
		{10, 0, 10}, {3010, 0, 3010},
		{PopMessage, 0, 200050}, {PollingInfo, 0, 200055}, {BatchAckMessage, 0, 200151},
		{-1000, FlagResponse, -1000}, {GoAway, FlagResponse, 1500}, {3442, FlagResponse, 3442},
	} {
		frame, err := AppendFrame(nil, &Command{Code: tt.code, Flag: tt.flag, Serialize: Binary})
		if err != nil {
			t.Fatal(err)
		}
		var c Command
		if err := DecodeFrame(frame, &c); err != nil || c.Code != tt.want {
			t.Errorf("%d is decoded as %d, %v", tt.code, c.Code, err)
		}
	}
}

// TestHeaderOutputIsStrictJSON checks our JSON with a parser that is not ours.
func TestHeaderOutputIsStrictJSON(t *testing.T) {
	for _, s := range []string{"", "plain", "\x00\x01\x02\x1f", `"\`, "中😀", "a\xffb\xc3", "\u2028</script>", strings.Repeat("x\x01", 1000)} {
		cmd := &Command{Code: 1, Remark: s, Ext: Fields{{"k" + s, s}}}
		frame, err := AppendFrame(nil, cmd)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Code      *int
			Remark    string
			ExtFields map[string]string
			Flag      *int
			Language  string
			Opaque    *int
			Version   *int
		}
		if err := json.Unmarshal(frame[8:], &got); err != nil {
			t.Fatalf("%q: %v", frame[8:], err)
		}
		want := strings.ToValidUTF8(s, "\ufffd")
		if got.Remark != want || got.ExtFields["k"+want] != want || got.Code == nil || got.Flag == nil || got.Opaque == nil || got.Version == nil {
			t.Errorf("%q gives %q", s, frame[8:])
		}
	}
}

func TestHeaderTooLong(t *testing.T) {
	for _, cmd := range []*Command{
		{Remark: strings.Repeat("x", 1<<24)},
		{Remark: strings.Repeat("x", 1<<24), Serialize: Binary},
		{Ext: Fields{{strings.Repeat("x", 40000), "v"}}, Serialize: Binary},
	} {
		dst := []byte("before")
		got, err := AppendFrame(dst, cmd)
		if !errors.Is(err, ErrTooLong) || string(got) != "before" {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

func TestFieldReader(t *testing.T) {
	f := Fields{{"i", "7"}, {"big", "9223372036854775807"}, {"neg", "-2147483648"}, {"x", "1x"}, {"over", "2147483648"}, {"t", "TRUE"}, {"f", "yes"}, {"e", ""}, {"i", "8"}}
	r := f.Reader()
	if r.Int32("i") != 8 || r.Int64("big") != 1<<63-1 || r.Int32("neg") != -1<<31 || !r.Bool("t") || r.Bool("f") || r.Int32Or("e", 5) != 5 ||
		r.StringOr("none", "d") != "d" || r.Int64Or("none", -1) != -1 || !r.BoolOr("none", true) || r.BoolOr("f", true) || r.Err() != nil {
		t.Errorf("wrong value or error %v", r.Err())
	}
	for name, read := range map[string]func(*FieldReader){
		"x":    func(r *FieldReader) { r.Int32("x") },
		"over": func(r *FieldReader) { r.Int32("over") },
		"none": func(r *FieldReader) { r.String("none") },
		"e":    func(r *FieldReader) { r.Int64("e") },
	} {
		r := f.Reader()
		read(&r)
		r.Int32("gone too") // the first error stays
		if err := r.Err(); !errors.Is(err, ErrField) || !strings.Contains(err.Error(), ": "+name+" is ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDecodedTextIsNotTheBuffer overwrites the frame behind a decoded command.
func TestDecodedTextIsNotTheBuffer(t *testing.T) {
	for _, s := range []Serialize{JSON, Binary} {
		frame, err := AppendFrame(nil, &Command{Serialize: s, Remark: "remark\x01", Ext: Fields{{"key", "value\x02"}}, Body: []byte("body")})
		if err != nil {
			t.Fatal(err)
		}
		var c Command
		if err := DecodeFrame(frame, &c); err != nil {
			t.Fatal(err)
		}
		kept := c.Clone()
		clear(frame)
		if c.Remark != "remark\x01" || c.Ext.Get("key") != "value\x02" || string(kept.Body) != "body" || kept.Ext.Get("key") != "value\x02" {
			t.Errorf("%+v, clone %+v", c, kept)
		}
	}
}
