// Package mutant takes single safeguards away, to show that the tests notice.
//
// Without the build tag mutant, On is a constant false: the compiler removes the
// call and what hangs on it. With the tag it says whether the environment
// variable RAFTMQ_MUTANT names the safeguard. make mutants runs the tests that
// have to fail then. Nothing that is built to be used has the tag.
package mutant

// Mutant is a safeguard that can be taken away.
type Mutant struct {
	Name string // for RAFTMQ_MUTANT
	What string // what is not there then
}

// All are the safeguards that can be taken away.
var All = []Mutant{
	{"sync", "the sync of the raft log before an entry counts as stored"},
	{"poison", "the latch that ends a store after a failed write or sync"},
	{"chain", "the checksum of its predecessor in each frame of the raft log"},
	{"resync", "writing the raft log's tail again, and syncing it, on open"},
	{"clamp", "the bound of a leader's commit index to what its request proves"},
	{"vote", "term and candidate of a vote as one value"},
	{"term", "the refusal of a term lower than the stored one"},
	{"incarnation", "the refusal of connections meant for another data directory"},
	{"lease", "the end of a queue lock that is not renewed"},
	{"dedup", "the window in which a repeated send is known"},
}
