package remoting

import (
	"maps"
	"slices"
)

// KVTable is the body of the answers to GetBrokerRuntimeInfo (28) and GetKVListByNamespace (219), and that of RegisterBroker (103), which
// may be empty.
type KVTable map[string]string

// AppendBody appends the body, sorted by key.
func (t KVTable) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.member("table", '{')
	for _, k := range slices.Sorted(maps.Keys(t)) {
		w.str(k, t[k])
	}
	w.close('}')
	return w.end()
}

// DecodeBody reads the body; an empty one is an empty table.
func (t *KVTable) DecodeBody(body []byte) error {
	*t = KVTable{}
	if len(body) == 0 {
		return nil
	}
	s := newScanner(body)
	for name := range s.members() {
		if name == "table" {
			for key := range s.members() {
				(*t)[key] = s.string()
			}
		}
	}
	return s.done("table")
}
