package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

// Config configures a Client. All but NameServers may be left out: the zero value is the default.
type Config struct {
	// NameServers are the addresses to ask for routes: "host:port;host:port". One is used until it fails.
	NameServers string
	// ClientID is how brokers call this client; two clients of one consumer group must not share it. Default: ip@pid#random.
	ClientID string
	randomID bool // ClientID is the default
	// JSONHeaders makes requests carry JSON headers, as most clients send. Default: RocketMQ's binary ones, which are cheaper.
	JSONHeaders bool
	// Dial connects to an address, for TLS or a proxy. It must return when its context ends. Default: plain TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// DialTimeout is how long one attempt to connect may take. Default: 3 s.
	DialTimeout time.Duration
	// CallTimeout is how long one call that is neither a send nor a pull may take. Default: 3 s.
	CallTimeout time.Duration
	// RouteInterval is how often routes are asked for; after failures they are at once. Default: 30 s.
	RouteInterval time.Duration
	// HeartbeatInterval is how often brokers hear of this client; a new connection and a changed subscription are told at once. Brokers
	// forget a client after 120 s. Default: 30 s.
	HeartbeatInterval time.Duration
	// MaxDecompressed is the longest body, in bytes, that a compressed one may become: one that says it is longer is left as it is (see
	// MessageExt.Err), and a listener does not get it. Default: 16 MiB, four times what brokers store.
	MaxDecompressed int
	// Logger gets what is worth a look: broken connections, moved leaders, failed listeners. Default: nothing is logged.
	Logger *slog.Logger
}

func (cfg *Config) validate() error {
	if len(cfg.servers()) == 0 {
		return fmt.Errorf("%w: Config.NameServers is %q, want \"host:port;host:port\"", ErrConfig, cfg.NameServers)
	}
	for _, s := range cfg.servers() {
		if _, port, err := net.SplitHostPort(s); err != nil || port == "" {
			return fmt.Errorf("%w: Config.NameServers: %q is not host:port", ErrConfig, s)
		}
	}
	for name, d := range map[string]time.Duration{"DialTimeout": cfg.DialTimeout, "CallTimeout": cfg.CallTimeout,
		"RouteInterval": cfg.RouteInterval, "HeartbeatInterval": cfg.HeartbeatInterval} {
		if d < 0 {
			return fmt.Errorf("%w: Config.%s is negative", ErrConfig, name)
		}
	}
	if cfg.MaxDecompressed < 0 {
		return fmt.Errorf("%w: Config.MaxDecompressed is negative", ErrConfig)
	}
	setDefault(&cfg.MaxDecompressed, 16<<20)
	setDefault(&cfg.DialTimeout, 3*time.Second)
	setDefault(&cfg.CallTimeout, 3*time.Second)
	setDefault(&cfg.RouteInterval, 30*time.Second)
	setDefault(&cfg.HeartbeatInterval, 30*time.Second)
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.ClientID == "" {
		var b [4]byte
		rand.Read(b[:]) // never fails
		cfg.randomID = true
		cfg.ClientID = fmt.Sprintf("%s@%d#%s", localAddr(), os.Getpid(), hex.EncodeToString(b[:]))
	}
	return nil
}

// servers returns the addresses in NameServers.
func (cfg *Config) servers() []string {
	return strings.FieldsFunc(cfg.NameServers, func(r rune) bool { return r == ';' || r == ',' || r == ' ' })
}

// localAddr returns an address of this machine that says more than 127.0.0.1 does, if there is one; IPv4, as every client can show it.
func localAddr() netip.Addr {
	addrs, _ := net.InterfaceAddrs() // without them the loopback address has to do
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap().Is4() && !ip.IsLoopback() {
				return ip.Unmap()
			}
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}
