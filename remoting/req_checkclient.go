package remoting

// CheckClientRequest is the body of CheckClientConfig (46): a consumer asks, at its start, whether the broker understands a subscription
// that is not one of tags. The answer has no body.
type CheckClientRequest struct {
	ClientID      string
	ConsumerGroup string
	Namespace     string // of 5.x
	Subscription  Subscription
}

// AppendBody appends the body.
func (r *CheckClientRequest) AppendBody(dst []byte) []byte {
	w := newObject(dst)
	w.str("clientId", r.ClientID)
	w.str("group", r.ConsumerGroup)
	if r.Namespace != "" {
		w.str("namespace", r.Namespace)
	}
	w.member("subscriptionData", '{')
	w.subscription(&r.Subscription)
	w.close('}')
	return w.end()
}

// DecodeBody reads the body. Without a subscription it is one of all messages.
func (r *CheckClientRequest) DecodeBody(body []byte) error {
	s := newScanner(body)
	*r = CheckClientRequest{Subscription: Subscription{ExpressionType: ExpressionTag}}
	for name := range s.members() {
		switch name {
		case "clientId":
			r.ClientID = s.string()
		case "group":
			r.ConsumerGroup = s.string()
		case "namespace":
			r.Namespace = s.string()
		case "subscriptionData":
			r.Subscription = s.subscription()
		}
	}
	return s.done("client check")
}
