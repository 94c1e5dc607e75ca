package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// network is a bridge with a network namespace for each node, and an address of
// its own, by which this process reaches the nodes.
type network struct {
	bridge string
	hosts  []string
	spaces []string
}

func newNetwork() (*network, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("partitions need root: leave partition out of -kinds")
	}
	tag := os.Getpid() % 10000
	n := &network{bridge: fmt.Sprintf("rmqf%d", tag)}
	subnet := fmt.Sprintf("10.%d.%d", 100+tag/250%100, tag%250)
	err := ip("link", "add", n.bridge, "type", "bridge")
	if err == nil {
		err = errors.Join(ip("addr", "add", subnet+".1/24", "dev", n.bridge), ip("link", "set", n.bridge, "up"))
	}
	for i := range nodes {
		space, host := fmt.Sprintf("%s-n%d", n.bridge, i+1), fmt.Sprintf("%s.%d", subnet, 11+i)
		n.spaces, n.hosts = append(n.spaces, space), append(n.hosts, host)
		for _, args := range []string{
			"netns add " + space,
			"link add " + space + " type veth peer name eth0 netns " + space,
			"link set " + space + " master " + n.bridge + " up",
			"-n " + space + " addr add " + host + "/24 dev eth0",
			"-n " + space + " link set eth0 up",
			"-n " + space + " link set lo up",
		} {
			if err == nil {
				err = ip(strings.Fields(args)...)
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// within is what a command is started with in a node's namespace.
func (n *network) within(id string) []string {
	return []string{"ip", "netns", "exec", n.bridge + "-" + id}
}

// cut takes a node off the network, or puts it on again. Nobody is told.
func (n *network) cut(id string, cut bool) error {
	state := "up"
	if cut {
		state = "down"
	}
	return ip("link", "set", n.bridge+"-"+id, state)
}

func (n *network) close() error {
	var errs []error
	for _, s := range n.spaces {
		// Its interfaces go with it.
		if _, err := os.Stat("/var/run/netns/" + s); err == nil {
			errs = append(errs, ip("netns", "del", s))
		}
	}
	if _, err := os.Stat("/sys/class/net/" + n.bridge); err == nil {
		errs = append(errs, ip("link", "del", n.bridge))
	}
	return errors.Join(errs...)
}
