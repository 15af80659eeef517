// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"qatplugin/internal/statusclient"
)

func (a *app) newRecord() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "record",
		Short: "Save what the plugin's recorder holds: the last events, facts and decisions",
		Long: `Save what the plugin's recorder holds: the last events, the facts that were read, the decisions and
the changes of the lists, as lines of JSON. qatctl replay shows them. A recording has addresses of
devices, names of drivers and the plugin's flags, and nothing of the pods' data.`,
		Example: `  qatctl record -o qat.ndjson
  ` + podCommand + ` record > qat.ndjson`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.record(c.Context(), file) },
	}
	c.Flags().StringVarP(&file, "output", "o", "-", "`file` to write; - is standard output")
	return c
}

func (a *app) record(ctx context.Context, file string) (err error) {
	if file == "-" {
		if _, ok := isTerminal(a.stdout); ok {
			return usageError{errors.New("record: standard output is a terminal: name a file with -o, or redirect it")}
		}
		return a.ask(ctx, func(ctx context.Context, c *statusclient.Client) error {
			return c.WriteRecording(ctx, a.stdout)
		})
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	err = a.ask(ctx, func(ctx context.Context, c *statusclient.Client) error { return c.WriteRecording(ctx, f) })
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(file)) // a part of a recording is of no use
	}
	fmt.Fprintf(a.stderr, "Wrote %s. Look at it with: qatctl replay %[1]s\n", file)
	return nil
}
