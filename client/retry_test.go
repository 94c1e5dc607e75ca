package client

import (
	"errors"
	"testing"

	"github.com/raftmq/raftmq/remoting"
)

func TestJudge(t *testing.T) {
	answer := func(code int32, ext ...string) *remoting.Command {
		c := &remoting.Command{Code: code}
		for i := 0; i < len(ext); i += 2 {
			c.Ext.Add(ext[i], ext[i+1])
		}
		return c
	}
	for _, row := range []struct {
		resp *remoting.Command
		err  error
		want verdict
	}{
		{answer(remoting.Success), nil, stored},
		{answer(remoting.FlushDiskTimeout), nil, stored},
		{answer(remoting.FlushSlaveTimeout), nil, stored},
		{answer(remoting.SlaveNotAvailable), nil, stored},
		{answer(remoting.FlushDiskTimeout, extOutcome, "unknown"), nil, unknown},
		{answer(remoting.FlushSlaveTimeout, extOutcome, "unknown"), nil, unknown},
		{answer(remoting.SlaveNotAvailable, extOutcome, "unknown"), nil, stored},
		{answer(remoting.ServiceNotAvailable), nil, notLeading},
		{answer(remoting.ServiceNotAvailable, extLeader, "h:1"), nil, redirected},
		{answer(remoting.GoAway), nil, notLeading},
		{answer(remoting.SystemBusy), nil, busy},
		{answer(remoting.FlowControl), nil, busy},
		{answer(remoting.SystemError), nil, failed},
		{answer(remoting.NoPermission), nil, refusedHere},
		{answer(remoting.TopicNotExist), nil, refusedHere},
		{answer(remoting.NoBuyerID), nil, refusedHere},
		{answer(remoting.NotInCurrentUnit), nil, refusedHere},
		{answer(remoting.MessageIllegal), nil, rejected},
		{answer(remoting.InvalidParameter), nil, rejected},
		{answer(remoting.SubscriptionGroupNotExist), nil, rejected},
		{answer(remoting.RequestCodeNotSupported), nil, rejected},
		{answer(9999), nil, rejected},
		{nil, remoting.ErrNotSent, neverSent},
		{nil, errors.New("connection refused"), neverSent},
		{nil, remoting.ErrLimbo, inLimbo},
	} {
		if got := judge(row.resp, row.err); got != row.want {
			t.Errorf("judge(%v, %v) = %v, want %v", row.resp, row.err, got, row.want)
		}
	}
}

// TestRetryTable has each row of the table above retryPolicy.next, with and without what changes it.
func TestRetryTable(t *testing.T) {
	normal := retryPolicy{retries: 2, leave: true}
	stay := retryPolicy{retries: 2}
	none := retryPolicy{leave: true}
	bold := retryPolicy{retries: 2, leave: true, afterLimbo: true}
	type state = sendState
	alone := state{over: true}
	others := state{over: true, others: true}
	more := state{others: true} // replicas are left in the round
	used := state{used: 2, over: true, others: true}
	lost := state{limbo: true, over: true, others: true}
	lostMore := state{limbo: true, others: true}
	lostUsed := state{used: 2, limbo: true, over: true, others: true}
	for _, row := range []struct {
		name  string
		p     retryPolicy
		s     state
		v     verdict
		want  step
		used  int
		limbo bool
	}{
		{"stored", normal, others, stored, finish, 0, false},
		{"stored after limbo", normal, lost, stored, finish, 0, true},

		{"unknown", normal, others, unknown, sameLater, 0, true},
		{"unknown, no retries", none, others, unknown, sameLater, 0, true},
		{"unknown, retries used up", normal, used, unknown, sameLater, 2, true},

		{"limbo", normal, more, inLimbo, sameNow, 1, true},
		{"limbo at the last replica", normal, others, inLimbo, sameLater, 1, true},
		{"limbo, no retries", none, more, inLimbo, finish, 0, true},
		{"limbo twice", normal, lostMore, inLimbo, sameNow, 1, true},
		{"limbo, bold: the same group first", bold, more, inLimbo, sameNow, 1, true},
		{"limbo twice, bold", bold, lostMore, inLimbo, elsewhere, 1, true},
		{"limbo, retries used up", bold, lostUsed, inLimbo, finish, 2, true},

		{"not sent, replicas left", normal, more, neverSent, sameNow, 0, false},
		{"not sent", normal, others, neverSent, elsewhere, 1, false},
		{"not sent, one group", normal, alone, neverSent, sameLater, 0, false},
		{"not sent, stay", stay, others, neverSent, sameLater, 0, false},
		{"not sent, no retries", none, others, neverSent, sameLater, 0, false},
		{"not sent, retries used up", normal, used, neverSent, sameLater, 2, false},
		{"not sent after limbo", normal, lost, neverSent, sameLater, 0, true},
		{"not sent after limbo, bold", bold, lost, neverSent, elsewhere, 1, true},

		{"redirected", normal, more, redirected, sameNow, 0, false},
		{"redirected in a circle", normal, others, redirected, sameLater, 0, false},
		{"redirected, no retries", none, more, redirected, sameNow, 0, false},
		{"redirected after limbo", normal, lostMore, redirected, sameNow, 0, true},

		{"not leading", normal, more, notLeading, elsewhere, 1, false},
		{"not leading, one group, replicas left", normal, state{}, notLeading, sameNow, 0, false},
		{"not leading, one group", normal, alone, notLeading, sameLater, 0, false},
		{"not leading, no retries, replicas left", none, more, notLeading, sameNow, 0, false},
		{"not leading, no retries", none, others, notLeading, finish, 0, false},
		{"not leading, retries used up", normal, used, notLeading, sameLater, 2, false},
		{"not leading after limbo", normal, lost, notLeading, sameLater, 0, true},
		{"not leading after limbo, no retries", none, lost, notLeading, sameLater, 0, true},

		{"busy", normal, more, busy, elsewhere, 1, false},
		{"busy, one group", normal, state{}, busy, sameLater, 0, false},
		{"busy, no retries", none, others, busy, finish, 0, false},
		{"busy after limbo", normal, lost, busy, sameLater, 0, true},

		{"failed", normal, more, failed, elsewhere, 1, false},
		{"failed, one group", normal, state{}, failed, sameLater, 1, false},
		{"failed, retries used up", normal, used, failed, finish, 2, false},
		{"failed, no retries", none, others, failed, finish, 0, false},
		{"failed after limbo", normal, lost, failed, sameLater, 1, true},

		{"refused here", normal, others, refusedHere, elsewhere, 1, false},
		{"refused here, one group", normal, alone, refusedHere, finish, 0, false},
		{"refused here, stay", stay, others, refusedHere, finish, 0, false},
		{"refused here after limbo", normal, lost, refusedHere, finish, 0, true},

		{"rejected", normal, others, rejected, finish, 0, false},
		{"rejected after limbo, bold", bold, lost, rejected, finish, 0, true},
	} {
		s := row.s
		if got := row.p.next(row.v, &s); got != row.want || s.used != row.used || s.limbo != row.limbo {
			t.Errorf("%s: %v, %d retries used, limbo %v; want %v, %d, %v", row.name, got, s.used, s.limbo, row.want, row.used, row.limbo)
		}
	}
}
