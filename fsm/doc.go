// Package fsm is the replicated state of one broker group: what its raft log
// means. It is pure: it has no clock, no randomness, no goroutine and no I/O but
// the store it is given, and nothing it does depends on the order of a map. Two
// states fed the same entries are equal, and so are the bytes their stores hold.
//
// # What it owns
//
// Topics, subscription groups, consumer offsets, the next offset of every queue,
// the end of the CommitLog, the log time, the window of recent sends, and which
// client has locked which queue. The messages themselves are the store's: an append command carries whole records,
// apply assigns queue offset, physical offset and store time, and tells the
// store which bytes go where.
//
// # Invariants
//
//	F1  The state is a function of the entries applied, in order. (S10)
//	F2  A queue's offsets are given out once each, in log order, with no gap. (S2, S4)
//	F3  A record lies in one segment; a send's records lie together.
//	F4  Log time never goes back, hence store times of a CommitLog never do.
//	F5  A send whose key is in the window is stored once, unless it says that it
//	    is a deliberate repeat. (S5)
//	F6  An entry that can't be decoded stops the replica; it is never skipped.
//	F7  A command re-checks what its proposer checked: a topic may be gone by the
//	    time it is applied. What it then does is nothing, with a status.
//	F8  A queue is locked for at most one client of a group, and another one gets
//	    the lock only after the first has given it up or the leader has seen it end.
package fsm
