package remoting

import (
	"encoding/base64"
	"errors"
	"testing"
)

// The handle as RocketMQ 5.3 makes it.
func TestRecallHandle(t *testing.T) {
	want := RecallHandle{Topic: "topic", BrokerName: "broker-a", Due: 1700000000001, UniqKey: "7F0000010A3B"}
	const text = "djEgdG9waWMgYnJva2VyLWEgMTcwMDAwMDAwMDAwMSA3RjAwMDAwMTBBM0I="
	if got := want.String(); got != text {
		t.Errorf("%q, want %q", got, text)
	}
	for _, s := range []string{text, text[:len(text)-1]} {
		if got, err := ParseRecallHandle(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
	spaced := RecallHandle{Topic: "t", BrokerName: "b", Due: 1, UniqKey: "a b"}
	if got, err := ParseRecallHandle(spaced.String()); err != nil || got != spaced {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestBadRecallHandles(t *testing.T) {
	for _, raw := range []string{"", "v1", "v1 t b 1", "v2 t b 1 u", "v1 t b x u", "v1  b 1 u", "v1 t b 1 ", "v1 t b 99999999999999999999 u"} {
		if h, err := ParseRecallHandle(base64.URLEncoding.EncodeToString([]byte(raw))); !errors.Is(err, ErrField) {
			t.Errorf("%q: %+v, %v", raw, h, err)
		}
	}
	if _, err := ParseRecallHandle("+/!"); !errors.Is(err, ErrField) {
		t.Errorf("no base64: %v", err)
	}
}

func FuzzRecallHandle(f *testing.F) {
	f.Add(RecallHandle{Topic: "t", BrokerName: "b", Due: 1, UniqKey: "u"}.String())
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseRecallHandle(text)
		if err != nil {
			return
		}
		if again, err := ParseRecallHandle(h.String()); err != nil || again != h {
			t.Errorf("%+v came back as %+v, %v", h, again, err)
		}
	})
}
