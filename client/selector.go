package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/raftmq/raftmq/remoting"
)

// Selector says which messages of a topic are wanted. A text is what ByTag takes, so "*" or "TagA || TagB" will do.
type Selector string

// sqlMark is what selectors of SQL begin with: no tag does.
const sqlMark = "\x00"

// ByTag selects messages by their tag: all ("*" or ""), or those with one of some tags ("TagA || TagB"). Case matters; a message without a tag
// is only selected by "*".
func ByTag(expression string) Selector { return Selector(expression) }

// BySQL selects messages by their properties: "region IN ('eu', 'us') AND price > 9.5". Brokers evaluate it, and only with
// enablePropertyFilter; PushConsumer.Start asks them whether they will. Tags and keys are the properties TAGS and KEYS. See broker/sql92 for the
// language, which is RocketMQ's.
func BySQL(expression string) Selector { return Selector(sqlMark + expression) }

// sql returns the expression of a selector made by BySQL.
func (s Selector) sql() (string, bool) { return strings.CutPrefix(string(s), sqlMark) }

// checkSelectors asks the brokers of topics whether they select by the SQL that is subscribed to. Only a refusal is an error: brokers that are
// not there now refuse pulls later, if they do.
func (p *PushConsumer) checkSelectors(ctx context.Context, subs []*subscription) error {
	for _, s := range subs {
		if s.kind == remoting.ExpressionTag {
			continue
		}
		r, err := p.c.routeOf(ctx, p.c.topic(s.topic), false)
		if errors.Is(err, ErrNoRoute) {
			continue
		}
		if err != nil {
			return err
		}
		h := remoting.CheckClientRequest{ClientID: p.c.cfg.ClientID, ConsumerGroup: p.cfg.Group, Subscription: s.data()}
		var asked []string
		for _, mq := range r.read {
			if slices.Contains(asked, mq.BrokerName) {
				continue
			}
			asked = append(asked, mq.BrokerName)
			_, err := p.c.callGroup(ctx, p.c.group(mq.BrokerName), &remoting.Command{Code: remoting.CheckClientConfig, Body: h.AppendBody(nil)})
			var refusal *BrokerError
			switch {
			case errors.As(err, &refusal):
				return fmt.Errorf("subscription to %s: broker %s: %w", s.topic, mq.BrokerName, err)
			case ctx.Err() != nil:
				return err
			case err != nil:
				p.c.log.Warn("a broker was not asked whether it selects by SQL", "topic", s.topic, "broker", mq.BrokerName, "error", err)
			}
		}
	}
	return nil
}
