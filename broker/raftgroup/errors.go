package raftgroup

import "errors"

// What a proposal can end with. The first group is definite: the command is not
// in the log and never will be. Of the second nothing is known: the command may
// be applied yet, and only asking again under the same key will tell.
var (
	// ErrNotLeader: this replica does not lead the group, or not yet.
	ErrNotLeader = errors.New("not the leader of the group")
	// ErrBusy: too much is on its way already.
	ErrBusy = errors.New("too many bytes proposed and not committed")
	// ErrNoRoom: the disk has no room for what apply would have to write.
	ErrNoRoom = errors.New("no room on the disk")
	// ErrTooLarge: the command is larger than one raft entry may be.
	ErrTooLarge = errors.New("too large for one entry")
	// ErrClosed: the group was closed, or has failed.
	ErrClosed = errors.New("group closed")

	// ErrUnknown is what every error of the second kind wraps.
	ErrUnknown = errors.New("outcome unknown")
	// ErrFlushTimeout: this replica's disk has not confirmed the entry in time.
	ErrFlushTimeout = wrapped("the disk has not confirmed in time")
	// ErrQuorumTimeout: no quorum has confirmed the entry in time.
	ErrQuorumTimeout = wrapped("no quorum has confirmed in time")
	// ErrLeadershipLost: another leader was elected before the entry committed.
	ErrLeadershipLost = wrapped("leadership lost before the entry was committed")

	errClosing = wrapped("the group was closed before the entry was committed")
)

type unknown struct{ text string }

func wrapped(text string) error { return &unknown{text} }

func (u *unknown) Error() string { return ErrUnknown.Error() + ": " + u.text }
func (u *unknown) Unwrap() error { return ErrUnknown }
