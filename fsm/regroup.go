package fsm

// Regroup makes a command that gives the group another id. Only a recovery by hand
// has it in the log.
func Regroup(groupID string) []byte { return appendString(header(nil, KindRegroup), groupID) }

func (s *State) regroup(r *reader) (Status, error) {
	id := r.string()
	if err := r.end(); err != nil {
		return 0, wrap(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config.GroupID = id
	return Stored, nil
}
