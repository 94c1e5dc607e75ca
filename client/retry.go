package client

import (
	"errors"

	"github.com/raftmq/raftmq/remoting"
)

// verdict is what one attempt to send says of the message.
type verdict uint8

const (
	stored      verdict = iota // the answer says where
	unknown                    // proposed to the replicas and not yet committed: asking again tells
	inLimbo                    // written to a connection, no answer came
	neverSent                  // no byte of it was written
	redirected                 // not stored; the answer names the leader
	notLeading                 // not stored: the replica does not take writes now
	busy                       // not stored: the leader has too much to do
	failed                     // not stored: the broker failed; it, or another group, may do better
	refusedHere                // not stored: another group may take it
	rejected                   // not stored, and no broker will
)

var verdictNames = [...]string{"stored", "unknown", "limbo", "not sent", "redirected", "not leading", "busy", "failed", "refused here", "rejected"}

func (v verdict) String() string { return verdictNames[v] }

// judge reads the answer to a send, or why there is none.
func judge(resp *remoting.Command, err error) verdict {
	switch {
	case errors.Is(err, remoting.ErrLimbo):
		return inLimbo
	case err != nil:
		return neverSent
	}
	switch resp.Code {
	case remoting.Success, remoting.SlaveNotAvailable:
		return stored
	case remoting.FlushDiskTimeout, remoting.FlushSlaveTimeout:
		if resp.Ext.Get(extOutcome) == "unknown" {
			return unknown
		}
		return stored
	case remoting.ServiceNotAvailable:
		if resp.Ext.Get(extLeader) != "" {
			return redirected
		}
		return notLeading
	case remoting.GoAway:
		return notLeading
	case remoting.SystemBusy, remoting.FlowControl:
		return busy
	case remoting.SystemError:
		return failed
	case remoting.NoPermission, remoting.TopicNotExist, remoting.NoBuyerID, remoting.NotInCurrentUnit:
		return refusedHere
	}
	return rejected
}

// step is what to do next with a message.
type step uint8

const (
	finish    step = iota // the outcome is what it is
	sameNow               // ask the next replica of the group, or the leader it named
	sameLater             // begin a new round in the group after a pause
	elsewhere             // go to another group
)

var stepNames = [...]string{"finish", "same group now", "same group later", "another group"}

func (s step) String() string { return stepNames[s] }

// retryPolicy says what a producer does about failed attempts.
type retryPolicy struct {
	retries    int  // besides the first attempt
	leave      bool // may go to another group if the outcome is definite
	afterLimbo bool // may go to another group also if it is not
}

// sendState is where a send stands.
type sendState struct {
	used   int  // retries
	limbo  bool // an attempt had no outcome: the message may be stored in this group
	others bool // there is another group with a queue for it
	over   bool // each replica of the group was tried in this round
}

// next decides. Finding the leader, and asking after an outcome that a broker said is unknown, is no retry and goes on until time is up; it
// is the caller who looks at the time.
//
//	verdict       first                                     after limbo (with afterLimbo, another group as at first)
//	stored        finish                                    finish
//	unknown       same group later                          the same
//	limbo         same group now, a retry; no retries left: finish
//	not sent      next replica; when all were tried:        next replica; same group later
//	              another group, a retry; else later
//	redirected    the leader named, now                     the same
//	not leading   another group, a retry; else the next     next replica; same group later
//	              replica; else later; no retries: finish
//	busy          another group, a retry; else later;       same group later
//	              no retries: finish
//	failed        another group, else later: a retry        same group later, a retry
//	refused here  another group, a retry; else finish       finish
//	rejected      finish                                    finish
//
// With limbo, finish means ErrLimbo whatever the last answer was: what is in limbo may be stored yet.
func (p retryPolicy) next(v verdict, s *sendState) step {
	again := s.used < p.retries
	asked := s.limbo // this attempt was one to ask after an earlier one
	away := again && s.others && (p.leave && !s.limbo || p.afterLimbo && asked)
	retry := func(t step) step {
		s.used++
		return t
	}
	switch v {
	case stored, refusedHere, rejected:
		if v == refusedHere && away {
			return retry(elsewhere)
		}
		return finish
	case unknown:
		s.limbo = true
		return sameLater
	case inLimbo:
		s.limbo = true
		switch {
		case !again:
			return finish
		case asked && away:
			return retry(elsewhere)
		case s.over:
			return retry(sameLater)
		}
		return retry(sameNow)
	case neverSent:
		switch {
		case !s.over:
			return sameNow
		case away:
			return retry(elsewhere)
		}
		return sameLater
	case redirected:
		if s.over { // replicas that send us round in a circle
			return sameLater
		}
		return sameNow
	case notLeading:
		switch {
		case away:
			return retry(elsewhere)
		case !s.over:
			return sameNow
		case p.retries == 0 && !s.limbo:
			return finish
		}
		return sameLater
	case busy:
		switch {
		case away:
			return retry(elsewhere)
		case p.retries == 0 && !s.limbo:
			return finish
		}
		return sameLater
	default: // failed
		switch {
		case away:
			return retry(elsewhere)
		case again:
			return retry(sameLater)
		}
		return finish
	}
}
