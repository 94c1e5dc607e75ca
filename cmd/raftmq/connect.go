package main

import (
	"context"
	"errors"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/raftmq/raftmq/client"
)

var namesrvFlag = &cli.StringFlag{
	Name: "namesrv", Aliases: []string{"n"}, Value: "127.0.0.1:9876", EnvVars: []string{"RAFTMQ_NAMESRV", "NAMESRV_ADDR"},
	Usage: "`LIST` of name servers, host:port;host:port",
}

// adminTimeout bounds a command that only asks or orders something.
const adminTimeout = 15 * time.Second

// withClient runs f with a client, and closes it.
func withClient(c *cli.Context, f func(ctx context.Context, cl *client.Client) error) (err error) {
	cl, err := client.New(client.Config{NameServers: c.String("namesrv")})
	if err != nil {
		return err
	}
	defer func() {
		// A canceled command still gets time to say good-bye.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = errors.Join(err, cl.Close(ctx))
	}()
	return f(c.Context, cl)
}

// withAdmin runs f with the administration of the cluster.
func withAdmin(c *cli.Context, f func(ctx context.Context, a *client.Admin) error) error {
	return withClient(c, func(ctx context.Context, cl *client.Client) error {
		ctx, cancel := context.WithTimeout(ctx, adminTimeout)
		defer cancel()
		return f(ctx, cl.Admin())
	})
}
