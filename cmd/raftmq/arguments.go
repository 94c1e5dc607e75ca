package main

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/client"
)

// prepare makes commands refuse wrong arguments before they do anything, with an
// error instead of the whole help text.
func prepare(parent string, commands []*cli.Command) {
	for _, cmd := range commands {
		name := parent + " " + cmd.Name
		cmd.HideHelpCommand = true
		cmd.OnUsageError = wrongUsage(name)
		if len(cmd.Subcommands) > 0 {
			cmd.Action = oneOf(name, cmd.Subcommands)
			prepare(name, cmd.Subcommands)
			continue
		}
		var need []string
		for _, f := range cmd.Flags {
			if r, ok := f.(cli.RequiredFlag); ok && r.IsRequired() {
				need = append(need, f.Names()[0])
			}
			unrequire(f)
		}
		cmd.Before = func(c *cli.Context) error {
			for _, flag := range need {
				if !c.IsSet(flag) {
					return usage("--%s is missing; see %s --help", flag, name)
				}
			}
			return checkOutput(c)
		}
	}
}

// unrequire leaves the check of a required flag to us: the library's prints the
// whole help text.
func unrequire(f cli.Flag) {
	switch f := f.(type) {
	case *cli.StringFlag:
		f.Required = false
	case *cli.StringSliceFlag:
		f.Required = false
	}
}

// checkOutput refuses a wrong -o before the command does what can't be undone.
func checkOutput(c *cli.Context) error {
	for _, f := range c.Command.Flags {
		if formats, ok := outputs[f]; ok && !slices.Contains(formats, c.String("output")) {
			return usage("-o %s: want %s", c.String("output"), strings.Join(formats, " or "))
		}
	}
	return nil
}

func wrongUsage(name string) cli.OnUsageErrorFunc {
	return func(_ *cli.Context, err error, _ bool) error {
		return usage("%v; see %s --help", err, name)
	}
}

// oneOf is the action of a command that has only subcommands.
func oneOf(name string, commands []*cli.Command) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() == 0 {
			return cli.ShowSubcommandHelp(c)
		}
		var names []string
		for _, cmd := range commands {
			names = append(names, cmd.Name)
		}
		return usage("%s has no command %q, but %s", name, c.Args().First(), strings.Join(names, ", "))
	}
}

// noArgs refuses arguments that a command does not have.
func noArgs(c *cli.Context) error {
	if c.NArg() > 0 {
		return usage("%s takes no argument, but there is %q; see %[1]s --help", c.Command.HelpName, c.Args().First())
	}
	return nil
}

// oneArg is a command's only argument.
func oneArg(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", usage("%s wants one %s, and flags before it; see %[1]s --help", c.Command.HelpName, what)
	}
	return c.Args().First(), nil
}

// readerGone says whether an error is that nobody reads standard output any
// more.
func readerGone(err error) bool {
	var file *fs.PathError
	return errors.As(err, &file) && file.Path == "/dev/stdout" && errors.Is(file.Err, syscall.EPIPE)
}

// nextStep says what to do about an error that does not say so itself.
func nextStep(err error) string {
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial", errors.Is(err, client.ErrNotSent) && errors.Is(err, context.DeadlineExceeded):
		return "\nIs a node up there? --namesrv or RAFTMQ_NAMESRV says where the name servers are; raftmq dev starts a cluster."
	case errors.Is(err, raftgroup.ErrForeign):
		return "\nGive this node a storePathRootDir of its own, or the configuration that the directory was made with."
	case groupStep(err) != "":
		return groupStep(err)
	case errors.Is(err, client.ErrLimbo):
		return "\nThe message may be stored or not. raftmq raft status shows whether the group has a leader."
	}
	return ""
}
