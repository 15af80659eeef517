// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

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

func (a *app) record(ctx context.Context, file string) error {
	if file == "-" {
		if _, ok := isTerminal(a.stdout); ok {
			return usageError{errors.New("record: standard output is a terminal: name a file with -o, or redirect it")}
		}
		return a.ask(ctx, func(ctx context.Context, c *statusclient.Client) error {
			return c.WriteRecording(ctx, a.stdout)
		})
	}
	err := writeFile(file, func(w io.Writer) error {
		return a.ask(ctx, func(ctx context.Context, c *statusclient.Client) error { return c.WriteRecording(ctx, w) })
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "Wrote %s. Look at it with: qatctl replay %[1]s\n", file)
	return nil
}

// writeFile replaces a file. After an error the old one, if there was one, is still there. Devices
// and pipes are written to instead.
func writeFile(path string, write func(io.Writer) error) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("create %s: %w", path, errors.Unwrap(err))
	}
	if err = errors.Join(write(f), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
