// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"qatplugin/internal/status"
	"qatplugin/internal/statusclient"
)

func (a *app) newStatus() *cobra.Command {
	var output string
	var check bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the status of the plugin on one page",
		Args:  noArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return a.status(c.Context(), output, check) },
	}
	outputFlag(c, &output, "json", "yaml")
	c.Flags().BoolVar(&check, "check", false, "exit with status 1 if a health check of the plugin fails")
	return c
}

func (a *app) status(ctx context.Context, output string, check bool) error {
	var text []byte
	var s *status.Snapshot
	err := a.ask(ctx, func(ctx context.Context, c *statusclient.Client) (err error) {
		if output == "" {
			if text, err = c.Text(ctx); err != nil || !check {
				return err
			}
		}
		s, err = c.Snapshot(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if output == "" {
		a.printf("%s", text)
	} else if err := a.print(output, s); err != nil {
		return err
	}
	if !check {
		return nil
	}
	for _, c := range s.Checks {
		if c.Err != "" {
			err = errWrong
			fmt.Fprintf(a.stderr, "Check %s failed: %s\n", c.Name, c.Err)
		}
	}
	return err
}

func (a *app) newVersion() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of qatctl and of the running plugin",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			plugin := "" // unknown if no plugin answers
			program := "qat_plugin"
			askErr := a.ask(c.Context(), func(ctx context.Context, client *statusclient.Client) error {
				s, err := client.Snapshot(ctx)
				if err == nil {
					plugin = s.Version
					if s.DRA != nil {
						program = "qat_dra_driver"
					}
				}
				return err
			})
			if output != "" {
				return a.print(output, struct {
					Version string `json:"version"`
					Go      string `json:"go"`
					Plugin  string `json:"plugin,omitempty"`
				}{version, runtime.Version(), plugin})
			}
			a.printf("qatctl %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			switch {
			case askErr == nil:
				a.printf("%s %s\n", program, plugin)
			case errors.Is(askErr, statusclient.ErrNotRunning):
				a.printf("qat_plugin is not running\n")
			default:
				a.printf("qat_plugin does not answer: %v\n", askErr)
			}
			return nil
		},
	}
	outputFlag(c, &output, "json", "yaml")
	return c
}
