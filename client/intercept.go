package client

import (
	"context"
	"maps"
)

// SendInterceptor is called at the beginning of each send, with its messages: one, or those of a batch. What it returns is called once, with
// the outcome (of SendOneway, which has none: nil and its error); nil: it is not interested. The context it returns is the send's, and that
// of the interceptors behind it.
//
// It may set properties in the messages' Properties, which is then a map of its own, never nil, and goes with this send alone; so a tracer's
// context travels with the message. It must change nothing else. It is called by many goroutines.
type SendInterceptor func(ctx context.Context, msgs []*Message) (context.Context, func(*SendResult, error))

// ConsumeInterceptor returns a listener that does something around next: it can give it another context, for example with the span of a
// trace whose context the messages' Properties carry, and sees what became of them. It is called once for each subscription.
type ConsumeInterceptor func(next Listener) Listener

// interception is what interceptors have to do with one send.
type interception struct {
	ms    []*Message
	own   []map[string]string // the Properties that the messages came with
	after []func(*SendResult, error)
}

// intercept shows a send to the interceptors. restore must be called when the messages are encoded, done with the outcome; both on nil too.
func (p *Producer) intercept(ctx context.Context, ms ...*Message) (context.Context, *interception) {
	if len(p.cfg.Interceptors) == 0 {
		return ctx, nil
	}
	in := &interception{}
	for _, m := range ms {
		if m != nil { // such a send fails
			in.ms = append(in.ms, m)
			in.own = append(in.own, m.Properties)
			if m.Properties = maps.Clone(m.Properties); m.Properties == nil {
				m.Properties = map[string]string{}
			}
		}
	}
	for _, f := range p.cfg.Interceptors {
		c, after := f(ctx, in.ms)
		ctx = c
		if after != nil {
			in.after = append(in.after, after)
		}
	}
	return ctx, in
}

// restore gives the messages the properties back that they came with.
func (in *interception) restore() {
	if in != nil {
		for i := len(in.ms) - 1; i >= 0; i-- { // one can be there twice
			in.ms[i].Properties = in.own[i]
		}
	}
}

// done tells the outcome, to the last one first.
func (in *interception) done(res *SendResult, err error) {
	if in != nil {
		for i := len(in.after) - 1; i >= 0; i-- {
			in.after[i](res, err)
		}
	}
}

// wrap returns l with the interceptors around it.
func wrap(interceptors []ConsumeInterceptor, l Listener) Listener {
	for i := len(interceptors) - 1; i >= 0; i-- {
		l = interceptors[i](l)
	}
	return l
}
