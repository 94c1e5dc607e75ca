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
	"github.com/raftmq/raftmq/broker/raftgroup"
	"github.com/raftmq/raftmq/client"
)

// Exit codes. Scripts rely on them.
const (
	exitFailed  = 1 // it did not work, or a check found something
	exitUsage   = 2 // wrong arguments or configuration: nothing was tried
	exitUnknown = 3 // a message may be stored, or not

	exitInterrupted = 130 // Ctrl-C or SIGTERM came before it was done
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A reader that has seen enough, as head, is no reason to be killed.
	signal.Ignore(syscall.SIGPIPE)
	err := app().RunContext(ctx, os.Args)
	interrupted := ctx.Err() != nil
	stop()
	switch code := exitCode(err); {
	case err == nil || readerGone(err):
	case interrupted && code == exitFailed && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "raftmq: interrupted")
		os.Exit(exitInterrupted)
	default:
		if text := err.Error(); text != "" {
			fmt.Fprintln(os.Stderr, "raftmq: "+text+nextStep(err))
		}
		os.Exit(code)
	}
}

func app() *cli.App {
	commands := []*cli.Command{
		serverCommand(), namesrvCommand(), devCommand(),
		produceCommand(), consumeCommand(), topicCommand(), groupCommand(), messageCommand(), dlqCommand(),
		raftCommand(), benchCommand(), verifyCommand(),
	}
	prepare("raftmq", commands)
	return &cli.App{
		Name:  "raftmq",
		Usage: "a RocketMQ-compatible message broker that heals itself",
		Description: "Exit codes: 0 done; 1 it did not work, or a check found something; 2 wrong arguments\n" +
			"or configuration, nothing was tried; 3 a message may be stored, or not; 130 interrupted\n" +
			"before it was done.",
		Version:         version,
		HideHelpCommand: true,
		// A comma belongs to a value: flags for several are given several times.
		DisableSliceFlagSeparator: true,

		ExitErrHandler: func(*cli.Context, error) {}, // main does
		OnUsageError:   wrongUsage("raftmq"),
		Action:         oneOf("raftmq", commands),
		Commands:       commands,
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
	case errors.Is(err, broker.ErrConfig), errors.Is(err, raftgroup.ErrForeign), errors.Is(err, client.ErrConfig), errors.Is(err, client.ErrMessage):
		return exitUsage
	case errors.Is(err, client.ErrLimbo):
		return exitUnknown
	}
	return exitFailed
}
