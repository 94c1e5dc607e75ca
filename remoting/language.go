package remoting

// Language is the programming language a peer says it is written in.
type Language uint8

// The languages of the protocol. The zero value is Java: every peer knows it.
const (
	LanguageJava Language = iota
	LanguageCPP
	LanguageDotnet
	LanguagePython
	LanguageDelphi
	LanguageErlang
	LanguageRuby
	LanguageOther
	LanguageHTTP
	LanguageGo
	LanguagePHP
	LanguageOMS
	LanguageRust
	LanguageNodeJS
)

var languageNames = [...]string{"JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP", "OMS", "RUST", "NODE_JS"}

// String returns the name used in JSON headers.
func (l Language) String() string {
	if int(l) < len(languageNames) {
		return languageNames[l]
	}
	return "OTHER"
}

// parseLanguage returns LanguageOther for a name it does not know: a new language must not cost a client its connection.
func parseLanguage(name []byte) Language {
	for i, n := range languageNames {
		if string(name) == n {
			return Language(i)
		}
	}
	return LanguageOther
}

// Versions are ordinals in RocketMQ's list of releases, snapshots included. Peers switch features on them.
const (
	// Version is what this package reports: 5.3.2.
	Version int32 = 477
	// VersionReconsumeTimes (3.4.9): from here on a request's maxReconsumeTimes overrides the group's.
	VersionReconsumeTimes int32 = 121
	// VersionStandardJSON (4.9.4): from here on routes have quoted broker ids.
	VersionStandardJSON int32 = 401
	// VersionTopicMapping (5.0.0): from here on the compressed registration body ends with a mapping section.
	VersionTopicMapping int32 = 413
	// VersionGoAway: clients above this one (5.3.1) reconnect and repeat a call that is answered GoAway.
	VersionGoAway int32 = 475
)
