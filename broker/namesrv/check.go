package namesrv

import (
	"fmt"
	"strconv"
	"strings"
)

// checkName refuses names that are empty, too long, or not text.
func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s is empty", what)
	case len(name) > MaxName:
		return fmt.Errorf("%s %.32q... has %d bytes, the limit is %d", what, name, len(name), MaxName)
	case strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7F || c == '\uFFFD' }):
		return fmt.Errorf("%s %q has control characters or is not UTF-8", what, name)
	}
	return nil
}

// checkAddr refuses what is not "host:port". The host may be an IPv6 address
// without brackets, as a Java broker may be configured. Go clients take a
// route's addresses apart at commas and quotes instead of parsing its JSON.
func checkAddr(addr string) error {
	if err := checkName("broker address", addr); err != nil {
		return err
	}
	at := strings.LastIndexByte(addr, ':')
	if at <= 0 || strings.ContainsAny(addr, " \"',;{}\\/") {
		return fmt.Errorf("broker address %q is not host:port", addr)
	}
	if port, err := strconv.ParseUint(addr[at+1:], 10, 16); err != nil || port == 0 {
		return fmt.Errorf("broker address %q: the port is not a number from 1 to 65535", addr)
	}
	return nil
}
