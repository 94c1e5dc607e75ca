package main

import (
	"slices"
	"strings"
	"testing"
)

func TestStatementsOfATestName(t *testing.T) {
	for name, want := range map[string]string{
		"TestSEND12Batch":                          "SEND-12 batch",
		"TestINDEX01And02And05QueryByKey":          "INDEX-01 INDEX-02 INDEX-05 query by key",
		"TestSEND21AndSTORE02And03KillMany":        "SEND-21 STORE-02 STORE-03 kill many",
		"TestTX11":                                 "TX-11 ",
		"TestProducer":                             " ",
		"TestSEND22RetryIsStoredOnceAcrossBrokers": "SEND-22 retry is stored once across brokers",
	} {
		ids, title := statements(name)
		if got := strings.Join(ids, " ") + " " + title; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestTableTellsWhatDoesNotHold feeds it a run in which one test fails, one is
// skipped and one is not there.
func TestTableTellsWhatDoesNotHold(t *testing.T) {
	run := `{"Action":"run","Package":"p","Test":"TestFLUSH01A"}
{"Action":"pass","Package":"p","Test":"TestFLUSH01A"}
{"Action":"pass","Package":"p","Test":"TestFLUSH02And03B/one"}
{"Action":"output","Package":"p","Test":"TestFLUSH02And03B/two","Output":"broken\n"}
{"Action":"fail","Package":"p","Test":"TestFLUSH02And03B/two"}
{"Action":"fail","Package":"p","Test":"TestFLUSH02And03B"}
{"Action":"pass","Package":"q","Test":"TestFLUSH03C"}
{"Action":"skip","Package":"p","Test":"TestFLUSH05D"}
{"Action":"fail","Package":"p"}
`
	rep, err := read(strings.NewReader(run))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"TestFLUSH02And03B"}; !slices.Equal(rep.failed, want) || len(rep.output[want[0]]) != 1 {
		t.Errorf("failed: %q, output %q", rep.failed, rep.output)
	}
	var out strings.Builder
	if !table(&out, []string{"FLUSH"}, rep) {
		t.Error("the table calls it good")
	}
	got := strings.Fields(strings.ReplaceAll(out.String(), "SHOWN BY, OR WHY NOT", ""))
	for _, want := range []string{"FLUSH-01 pass a", "FLUSH-02 fail b", "FLUSH-03 fail c; b", "FLUSH-04 n/a offsets", "FLUSH-05 skipped d", "FLUSH-06 fail there", "1 pass, 6 fail, 1 skipped, 1 not"} {
		if !strings.Contains(strings.Join(got, " "), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	all := report{}
	for _, id := range []string{"01", "02", "03", "05", "06", "07", "08", "09"} {
		all.passed = append(all.passed, "TestFLUSH"+id+"X")
	}
	if out.Reset(); table(&out, []string{"FLUSH"}, all) {
		t.Errorf("the table calls it bad:\n%s", out.String())
	}
}

// TestRunThatDoesNotBuildFails: no result is not a good one.
func TestRunThatDoesNotBuildFails(t *testing.T) {
	rep, err := read(strings.NewReader(`{"Action":"build-output","Output":"x.go:1: broken\n"}
{"Action":"fail","Package":"p"}
`))
	if err != nil || len(rep.failed) != 1 {
		t.Errorf("failed: %q, %v", rep.failed, err)
	}
}
