package remoting

import "testing"

// TestEndTransactionRequest has the fields of Java's and Go's requests in it, and what such a request lacks.
func TestEndTransactionRequest(t *testing.T) {
	fields := Fields{{"producerGroup", "p"}, {"tranStateTableOffset", "7"}, {"commitLogOffset", "1024"}, {"commitOrRollback", "8"},
		{"fromTransactionCheck", "true"}, {"msgId", "U"}, {"transactionId", "U"}, {"bname", "b"}, {"topic", "T"}}
	var h EndTransactionRequest
	if err := h.Decode(&Command{Ext: fields}); err != nil || h != (EndTransactionRequest{"T", "p", 7, 1024, TransactionCommitted, true, "U", "U", "b"}) {
		t.Errorf("%+v, %v", h, err)
	}
	for i := range 4 {
		if err := h.Decode(&Command{Ext: append(fields[:i:i], fields[i+1:]...)}); err == nil {
			t.Errorf("without %s: %+v", fields[i].Key, h)
		}
	}
	if got := TransactionState(12).String() + ", " + TransactionState(0).String() + ", " + TransactionState(8).String(); got != "rolled back, unknown, committed" {
		t.Error(got)
	}
}
