// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"qatplugin/internal/status"
)

func (a *app) newCompletion() *cobra.Command {
	scripts := map[string]func(*cobra.Command, io.Writer) error{
		"bash":       func(c *cobra.Command, w io.Writer) error { return c.GenBashCompletionV2(w, true) },
		"zsh":        (*cobra.Command).GenZshCompletion,
		"fish":       func(c *cobra.Command, w io.Writer) error { return c.GenFishCompletion(w, true) },
		"powershell": (*cobra.Command).GenPowerShellCompletionWithDesc,
	}
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script that completes commands, flags, addresses and resources in a shell",
		Long: `Print a script for a shell. It completes commands and flags, and asks the running plugin for
addresses and resources.`,
		Example: `  source <(qatctl completion bash)
  qatctl completion zsh > "${fpath[1]}/_qatctl"
  qatctl completion fish > ~/.config/fish/completions/qatctl.fish`,
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || !slices.Contains(shells, args[0]) {
				return fmt.Errorf("%s: name one shell: %s", strings.Join(append([]string{"completion"}, args...), " "),
					alternatives(shells))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return scripts[args[0]](c.Root(), a.stdout) },
	}
}

// completionTimeout is how long a completion waits for the plugin.
const completionTimeout = 2 * time.Second

// completions asks the plugin for the values of a completion. There are none if no plugin runs.
func (a *app) completions(
	c *cobra.Command, values func(*status.Snapshot) []string,
) ([]cobra.Completion, cobra.ShellCompDirective) {
	client, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), completionTimeout)
	defer cancel()
	s, err := client.Snapshot(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return values(s), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeResources(
	c *cobra.Command, _ []string, _ string,
) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.completions(c, resourcesOf)
}

func (a *app) completePFs(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.completions(c, addressesOfPFs)
}

// completeDevices completes the addresses that are not among the arguments yet.
func (a *app) completeDevices(
	c *cobra.Command, args []string, _ string,
) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.completions(c, func(s *status.Snapshot) []string {
		return slices.DeleteFunc(append(addressesOfPFs(s), addressesOfVFs(s)...), func(address string) bool {
			return slices.Contains(args, address)
		})
	})
}
