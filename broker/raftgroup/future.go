package raftgroup

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/hashicorp/raft"

	"github.com/raftmq/raftmq/fsm"
	"github.com/raftmq/raftmq/storage/raftlog"
)

// await waits for a future of raft until it is answered or stop is closed; then
// it is raft.ErrRaftShutdown, and the outcome is unknown.
//
// raft does not answer all of its futures: those it has queued when it shuts
// down it forgets (issue 498), and who waits for one waits for ever. Its futures
// can watch a channel for that, the exported field ShutdownCh, but raft sets it
// for few of them. Here it is set before anybody waits. What has no such field
// was answered when it was made.
func await(future raft.Future, stop chan struct{}) error {
	if v := reflect.ValueOf(future); v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct {
		f := v.Elem().FieldByName("ShutdownCh")
		if f.IsValid() && f.CanSet() && f.Type() == reflect.TypeFor[chan struct{}]() {
			f.Set(reflect.ValueOf(stop))
		}
	}
	return future.Error()
}

// results waits for an entry to be applied, and takes apart what the state
// machine answered. The error is definite unless it wraps ErrUnknown.
func results(future raft.ApplyFuture, stop chan struct{}) ([]fsm.Result, error) {
	if err := await(future, stop); err != nil {
		return nil, outcome(err)
	}
	switch r := future.Response().(type) {
	case []fsm.Result:
		return r, nil
	case error:
		// The state machine failed on this entry, here. The others may go on.
		return nil, fmt.Errorf("%w: %w", ErrUnknown, r)
	}
	return nil, ErrUnknown
}

// outcome maps an error of raft. Only those that it gives before the entry is in
// its log are definite: anything else may be stored yet.
func outcome(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrNotLeader
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return ErrBusy
	// The log has refused the entry and is as it was; raft counts it nowhere.
	case errors.Is(err, raftlog.ErrNoSpace):
		return ErrNoRoom
	case errors.Is(err, raftlog.ErrTooLarge):
		return ErrTooLarge
	case errors.Is(err, raft.ErrLeadershipLost):
		return ErrLeadershipLost
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}
