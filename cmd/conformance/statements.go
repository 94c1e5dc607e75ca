package main

import (
	"regexp"
	"strings"
)

// areas are the areas of RocketMQ's semantics, and how many statements each has.
var areas = []struct {
	name  string
	count int
}{
	{"SEND", 22}, {"FLUSH", 9}, {"STORE", 15}, {"INDEX", 6}, {"TOPIC", 9}, {"GROUP", 7}, {"PULL", 12}, {"OFF", 10}, {"REBAL", 7},
	{"ORDER", 7}, {"RETRY", 14}, {"DLQ", 8}, {"DELAY", 6}, {"TIMER", 7}, {"TX", 12}, {"FILT", 10}, {"POP", 8}, {"HA", 14}, {"ADM", 8},
}

func areaNames() (names []string) {
	for _, a := range areas {
		names = append(names, a.name)
	}
	return names
}

func count(area string) int {
	for _, a := range areas {
		if a.name == area {
			return a.count
		}
	}
	return 0
}

// reasons say why a statement, or an area, has no test. A test that there is
// counts all the same.
var reasons = map[string]string{
	"FLUSH-04": "offsets are assigned at commit: an answer before it would have none",
	"POP":      "pop consumption is not offered: its requests are answered REQUEST_CODE_NOT_SUPPORTED",
	"ADM":      "administration beyond what clients need is not complete",
	"HA-01":    "shown by make chaos and make demo", "HA-02": "shown by make chaos and the tests of broker/raftgroup",
	"HA-03": "shown by the tests of broker/raftgroup", "HA-04": "shown by the tests of broker/raftgroup",
	"HA-05": "members are not changed while a cluster runs", "HA-06": "shown by make chaos", "HA-07": "leadership does not move off a full disk",
	"HA-12": "shown by raftmq verify in make demo and make chaos", "HA-14": "shown by the tests of broker/raftgroup",
}

func notApplicable(id string) (string, bool) {
	reason, ok := reasons[id]
	if !ok {
		area, _, _ := strings.Cut(id, "-")
		reason, ok = reasons[area]
	}
	return reason, ok
}

var (
	testName = regexp.MustCompile(`^Test([A-Z]+\d\d(?:And[A-Z]*\d\d)*)(.*)$`)
	idInName = regexp.MustCompile(`([A-Z]*)(\d\d)`)
	wordAt   = regexp.MustCompile(`([a-z0-9])([A-Z])`)
)

// statements are the ids in a test's name, and what else the name says, in words.
func statements(test string) (ids []string, title string) {
	m := testName.FindStringSubmatch(test)
	if m == nil {
		return nil, ""
	}
	area := ""
	for part := range strings.SplitSeq(m[1], "And") {
		id := idInName.FindStringSubmatch(part)
		if id[1] != "" {
			area = id[1]
		}
		ids = append(ids, area+"-"+id[2])
	}
	return ids, strings.ToLower(wordAt.ReplaceAllString(m[2], "$1 $2"))
}
