package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/raftmq/raftmq/remoting"
)

// DeadLetter is a message that a consumer group has failed on too often. Topic is that of the group's dead letters. Only raftmq brokers know
// whether one was sent again; with RocketMQ's, read the topic %DLQ%group like any other.
type DeadLetter struct {
	*MessageExt
	// OriginTopic is the topic that the message was sent to first, OriginMsgID the OffsetMsgID it had there; "" if the record does not say.
	OriginTopic, OriginMsgID string
	// Handled says that it was sent again; see ResendDeadLetters.
	Handled bool
}

// DeadLetterQuery says which dead letters of a group are wanted; zero: all.
type DeadLetterQuery struct {
	// From and To are when they became dead; zero: any time.
	From, To time.Time
	// ID is a MsgID, or an OffsetMsgID that the letter has as such.
	ID string
	// Key is one of Keys. Of each broker the newest 64 letters with it are found.
	Key string
}

// letterPage is how many dead letters are asked for at once.
const letterPage = 64

// DeadLetters returns the dead letters of a consumer group at all brokers, oldest first. They are read as they are asked for, a page at a time,
// and stay where they are. A group that has none has an empty sequence; one that does not exist an error with
// remoting.SubscriptionGroupNotExist. After an error the sequence ends.
func (a *Admin) DeadLetters(ctx context.Context, group string, q DeadLetterQuery) iter.Seq2[*DeadLetter, error] {
	return func(yield func(*DeadLetter, error) bool) {
		readers, err := a.letterReaders(ctx, group, q)
		for err == nil {
			var first *letterReader
			for _, r := range readers {
				if err = r.fill(ctx, a.c); err != nil {
					break
				}
				if len(r.page) > 0 && (first == nil || r.page[0].StoreTime.Before(first.page[0].StoreTime)) {
					first = r
				}
			}
			if err == nil && first == nil {
				break
			}
			if err == nil {
				l := first.page[0]
				first.page = first.page[1:]
				if !yield(l, nil) {
					return
				}
			}
		}
		if err == nil && !slices.ContainsFunc(readers, func(r *letterReader) bool { return !r.unknown }) {
			err = readers[0].refusal
		}
		if err != nil {
			yield(nil, fmt.Errorf("dead letters of group %s: %w", group, err))
		}
	}
}

// letterReader reads a group's dead letters at one broker.
type letterReader struct {
	g       *group
	query   remoting.DeadLetterQuery
	page    []*DeadLetter
	over    bool
	unknown bool // the broker does not know the consumer group, and says so in refusal
	refusal error
}

func (a *Admin) letterReaders(ctx context.Context, name string, q DeadLetterQuery) (readers []*letterReader, err error) {
	if err := remoting.CheckGroup(name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	groups, err := a.groups(ctx)
	if err != nil {
		return nil, err
	}
	h := remoting.DeadLetterQuery{Group: name, ID: q.ID, Key: q.Key, Max: letterPage}
	if !q.From.IsZero() {
		h.Begin = max(0, q.From.UnixMilli())
	}
	if !q.To.IsZero() {
		h.End = max(1, q.To.UnixMilli()) // 0 would be any time
	}
	for _, g := range groups {
		readers = append(readers, &letterReader{g: g, query: h})
	}
	return readers, nil
}

// fill reads the next page if there is one and the last one is used up.
func (r *letterReader) fill(ctx context.Context, c *Client) error {
	for len(r.page) == 0 && !r.over {
		resp, err := c.callGroup(ctx, r.g, &remoting.Command{Code: remoting.DeadLettersRequest, Header: &r.query})
		if errors.Is(err, &BrokerError{Code: remoting.SubscriptionGroupNotExist}) {
			// It may be at another broker only.
			r.over, r.unknown, r.refusal = true, true, err
			return nil
		}
		if err != nil {
			return err
		}
		var p remoting.DeadLetterPage
		if err := p.Decode(resp); err != nil {
			return err
		}
		list, err := c.decodeMessages(resp.Body, r.g.name)
		if err != nil {
			return err
		}
		if len(p.Handled) != len(list) || p.More && len(list) == 0 {
			return fmt.Errorf("%w: broker %s: a page of %d letters, of which %d are said to be handled or not", remoting.ErrBody, r.g.name, len(list), len(p.Handled))
		}
		for i, m := range list {
			r.page = append(r.page, &DeadLetter{
				MessageExt: m, Handled: p.Handled[i] == '1',
				OriginTopic: m.Property(remoting.PropRetryTopic), OriginMsgID: m.Property(remoting.PropOriginMessageID),
			})
		}
		r.query.From, r.over = p.Next, !p.More
	}
	return nil
}

// Resent is what became of a dead letter that was to be sent again: nothing is wrong if Err is nil. ErrHandled: it was sent again before.
type Resent struct {
	*DeadLetter
	Err error
}

// resendBytes bounds the dead letters that are sent again by one request, but for the first.
const resendBytes = 4 << 20

// ResendDeadLetters gives a consumer group dead letters of its own again, at once or when it is there; other groups do not get them. Each comes
// as if it had never been tried, with the topic it had first, its MsgID, Keys and Tags; if the group fails on it again it becomes a dead
// letter anew. A letter is sent again once: then it counts as handled, and only force sends it once more. done is called with each letter,
// in order. With an error, nothing is known of the others: DeadLetters tells which are handled.
func (a *Admin) ResendDeadLetters(ctx context.Context, group string, letters []*DeadLetter, force bool, done func(Resent)) error {
	for len(letters) > 0 {
		n, size := 0, 0
		for n < len(letters) && n < remoting.MaxResend && letters[n].Queue.BrokerName == letters[0].Queue.BrokerName &&
			(n == 0 || size+letters[n].StoreSize <= resendBytes) {
			size += letters[n].StoreSize
			n++
		}
		if err := a.resend(ctx, group, letters[:n], force, done); err != nil {
			return fmt.Errorf("sending dead letters of group %s again: %w", group, err)
		}
		letters = letters[n:]
	}
	return nil
}

// resend makes one request, and again under the same id while its outcome is unknown.
func (a *Admin) resend(ctx context.Context, name string, letters []*DeadLetter, force bool, done func(Resent)) error {
	h := remoting.DeadLetterResend{Group: name, ID: rand.Text(), Force: force}
	for _, l := range letters {
		h.Letters = append(h.Letters, l.OffsetMsgID)
	}
	g := a.c.group(letters[0].Queue.BrokerName)
	for wait := minPause; ; wait = min(2*wait, maxPause) {
		resp, err := a.c.callGroup(ctx, g, &remoting.Command{Code: remoting.ResendDeadLettersRequest, Body: h.AppendBody(nil)})
		if err != nil {
			return err
		}
		var results remoting.DeadLetterResults
		if err := results.DecodeBody(resp.Body); err != nil {
			return err
		}
		if len(results) != len(letters) {
			return fmt.Errorf("%w: broker %s: %d results of %d letters", remoting.ErrBody, g.name, len(results), len(letters))
		}
		if i := slices.IndexFunc(results, func(r remoting.DeadLetterResult) bool { return r.Outcome == remoting.ResendUnknown }); i >= 0 {
			if err := pause(ctx, jitter(wait)); err != nil {
				return fmt.Errorf("%w: %s: %w", ErrLimbo, results[i].Error, err)
			}
			continue
		}
		for i, r := range results {
			done(Resent{letters[i], resendError(r)})
		}
		return nil
	}
}

func resendError(r remoting.DeadLetterResult) error {
	switch r.Outcome {
	case remoting.Resent:
		return nil
	case remoting.ResentBefore:
		return ErrHandled
	}
	return fmt.Errorf("%w: %s", ErrRejected, r.Error)
}
