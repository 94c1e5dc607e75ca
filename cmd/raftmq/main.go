// Command raftmq is the broker, and the tools for it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/broker"
	"github.com/raftmq/raftmq/client"
)

// Exit codes. Scripts rely on them.
const (
	exitFailed  = 1 // it did not work, or a check found something
	exitUsage   = 2 // wrong arguments or configuration: nothing was tried
	exitUnknown = 3 // a message may be stored, or not
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := app().RunContext(ctx, os.Args)
	stop()
	if err == nil {
		return
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, "raftmq: "+text)
	}
	os.Exit(exitCode(err))
}

func app() *cli.App {
	return &cli.App{
		Name:  "raftmq",
		Usage: "a RocketMQ-compatible message broker that heals itself",
		Description: "Exit codes: 0 done; 1 it did not work, or a check found something; 2 wrong arguments\n" +
			"or configuration, nothing was tried; 3 a message may be stored, or not.",
		Version:         version,
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {}, // main does
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return usage("%v", err)
		},
		Commands: []*cli.Command{
			serverCommand(), namesrvCommand(), devCommand(),
			produceCommand(), consumeCommand(), topicCommand(), raftCommand(), benchCommand(), verifyCommand(),
		},
	}
}

// version is set by the Makefile.
var version = "dev"

// exitError is an error that says which code to exit with.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func exitCode(err error) int {
	var e *exitError
	switch {
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, broker.ErrConfig), errors.Is(err, client.ErrConfig), errors.Is(err, client.ErrMessage):
		return exitUsage
	case errors.Is(err, client.ErrLimbo):
		return exitUnknown
	}
	return exitFailed
}

// noArgs refuses arguments that a command does not have.
func noArgs(c *cli.Context) error {
	if c.NArg() > 0 {
		return usage("%s takes no argument, but there is %q; see raftmq %s --help", c.Command.FullName(), c.Args().First(), c.Command.FullName())
	}
	return nil
}
