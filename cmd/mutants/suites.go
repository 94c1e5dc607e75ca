package main

import "slices"

// suite is some tests of a package.
type suite struct {
	pkg string // its directory
	run string // the tests, a regular expression without anchors
}

// simulation is what is tried on each mutant.
var simulation = suite{"broker/raftgroup", "TestSim"}

// suites are the tests that have to find a mutant, whatever the simulation does.
var suites = map[string][]suite{
	"sync": {
		{"storage/raftlog", "TestOpenSyncsWhatItShows"},
		{"broker/raftgroup", "TestSEND21AndHA06PowerLossEverywhere"},
	},
	"poison": {
		{"storage/raftlog", "TestStableCrashAtEachWrite"},
		{"broker/raftgroup", "TestFLUSH05PoisonOnStoreError"},
	},
	"chain": {
		{"storage/raftlog", "TestSegmentOfAnotherHistory"},
	},
	"resync": {
		{"storage/raftlog", "TestOpenSyncsWhatItShows|TestRandomHistories"},
	},
	"clamp": {
		{"broker/raftgroup", "TestGuardCommitClamp"},
	},
	"vote": {
		{"storage/raftlog", "TestCrashBetweenTheHalvesOfAVote|TestStableCrashAtEachWrite"},
		{"broker/raftgroup", "TestGuardAtomicVote"},
	},
	"term": {
		{"storage/raftlog", "TestStableRefusesWhatGoesBack"},
	},
	"incarnation": {
		{"broker/raftgroup", "TestWipedNodeNeverVotesAsItsOldSelf|TestWipedMajorityMakesNoGroup"},
	},
	"lease": {
		{"broker", "TestORDER02LockEndsWithoutRenewal"},
	},
	"dedup": {
		{"fsm", "TestRepeatedSendIsStoredOnce"},
		{"broker", "TestSEND22RetryIsStoredOnce"},
	},
}

// packages are the packages of these suites, each once.
func packages(cases []suite) (all []string) {
	for _, c := range cases {
		if !slices.Contains(all, c.pkg) {
			all = append(all, c.pkg)
		}
	}
	slices.Sort(all)
	return all
}
