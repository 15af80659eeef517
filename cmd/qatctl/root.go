// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"qatplugin/internal/statusclient"
)

// socketVariable is the environment variable for --socket.
const socketVariable = "QATCTL_SOCKET"

// An app is one run of the program.
type app struct {
	*environment
	begun bool // the command line is valid

	socket  string
	server  string
	timeout time.Duration
	color   string

	// Roots of the host, for the commands that read it without a plugin.
	sysfsRoot, devRoot, kubeletDir string
}

const longHelp = `qatctl shows what qat_plugin or qat_dra_driver knows about the QAT devices of this host. It
changes nothing.

It asks the running plugin at its status socket. If no plugin runs, list, describe and doctor
read the host themselves.

On a cluster:
  kubectl exec daemonset/intel-qat-plugin -- qatctl list

Exit status: 0 if all is well, 1 if something is wrong, 2 if the command line is wrong, 3 if
neither a plugin nor the host can be asked.`

// newRoot returns the command qatctl with all its subcommands.
func (a *app) newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:               "qatctl",
		Short:             "Show what the QAT device plugin knows",
		Long:              longHelp,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.begin() },
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			text := fmt.Sprintf("unknown command %q", args[0])
			if c.SuggestionsMinimumDistance <= 0 {
				c.SuggestionsMinimumDistance = 2
			}
			if names := c.SuggestionsFor(args[0]); len(names) > 0 {
				text += ": did you mean " + strings.Join(names, " or ") + "?"
			}
			return usageError{fmt.Errorf("%s", text)}
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.socket, "socket", cmp.Or(a.getenv(socketVariable), findSocket(os.Stat)),
		"`path` of the plugin's status socket, also set by "+socketVariable)
	flags.StringVar(&a.server, "server", "",
		"`URL` of the plugin's -http-address, such as http://localhost:8080, instead of the socket")
	flags.DurationVar(&a.timeout, "timeout", 10*time.Second, "`time` to wait for an answer")
	a.color = "auto"
	when := []string{"auto", "always", "never"}
	flags.Var(&choice{&a.color, when}, "color",
		"`when` to use colours: auto, on a terminal unless NO_COLOR is set; always; or never")
	complete(root, "color", cobra.FixedCompletions(when, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(
		a.newList(), a.newDescribe(), a.newWatch(), a.newTop(), a.newEvents(), a.newStatus(), a.newDoctor(),
		a.newRecord(), a.newReplay(), a.newVersion(), a.newCompletion(),
	)
	return root
}

// findSocket returns the status socket of the program that runs on this host.
func findSocket(stat func(string) (fs.FileInfo, error)) string {
	if _, err := stat(statusclient.DefaultSocket); err != nil {
		if _, err := stat(statusclient.DRASocket); err == nil {
			return statusclient.DRASocket
		}
	}
	return statusclient.DefaultSocket
}

// begin checks the flags of all commands.
func (a *app) begin() error {
	if a.timeout <= 0 {
		return fmt.Errorf("--timeout: invalid value %v: must be more than 0", a.timeout)
	}
	if _, err := a.client(); err != nil {
		return err
	}
	a.begun = true
	return nil
}

// hostFlags adds the flags of a command that can read the host without a plugin.
func (a *app) hostFlags(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&a.sysfsRoot, "sysfs-root", "/sys",
		"`directory` where the host's sysfs is mounted, if no plugin runs")
	flags.StringVar(&a.devRoot, "dev-root", "/dev",
		"`directory` where the host's /dev is mounted, if no plugin runs")
	flags.StringVar(&a.kubeletDir, "kubelet-dir", "/var/lib/kubelet/device-plugins",
		"`directory` of kubelet.sock, if no plugin runs")
}

// client returns the client of the plugin that the flags name.
func (a *app) client() (*statusclient.Client, error) {
	if a.server == "" {
		return statusclient.NewSocket(a.socket), nil
	}
	c, err := statusclient.NewURL(a.server)
	if err != nil {
		return nil, fmt.Errorf("--server: invalid value %w", err)
	}
	return c, nil
}

// A choice is the value of a flag that allows some words.
type choice struct {
	value   *string
	allowed []string
}

func (c *choice) String() string { return *c.value }
func (c *choice) Type() string   { return "word" }

func (c *choice) Set(text string) error {
	if !slices.Contains(c.allowed, text) {
		return fmt.Errorf("must be %s", alternatives(c.allowed))
	}
	*c.value = text
	return nil
}

// alternatives returns "a, b or c".
func alternatives(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// outputFlag adds the flag -o.
func outputFlag(c *cobra.Command, value *string, allowed ...string) {
	c.Flags().VarP(&choice{value, allowed}, "output", "o", "`format` of the output: "+alternatives(allowed))
	complete(c, "output", cobra.FixedCompletions(allowed, cobra.ShellCompDirectiveNoFileComp))
}

// complete sets the completion of a flag that exists.
func complete(c *cobra.Command, flag string, f cobra.CompletionFunc) {
	_ = c.RegisterFlagCompletionFunc(flag, f)
}
