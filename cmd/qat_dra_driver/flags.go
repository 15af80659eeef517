// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"regexp"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"qatplugin/internal/flagvalue"
	"qatplugin/internal/program"
)

// The values of -unhealthy-taint-effect.
const (
	noSchedule = "NoSchedule"
	noExecute  = "NoExecute"
)

// options are the values of the flags.
type options struct {
	program.Options
	driverName     string
	kubeletRoot    string
	kubeletDir     string
	cdiDir         string
	kubeconfig     string
	taintEffect    string // noSchedule or noExecute
	deviceMetadata bool
	assumeCDI      bool

	api    *rest.Config // of the API server
	podUID string       // of the pod that the process runs in; "" if it is unknown
}

// A driverName is a flag with the name of a DRA driver (k8s.io/api/resource/v1,
// DriverNameMaxLength), which is also a vendor of CDI.
type driverName string

var dnsName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// String implements [flag.Value].
func (n *driverName) String() string { return string(*n) }

// Set implements [flag.Value].
func (n *driverName) Set(text string) error {
	if len(text) > 63 || !dnsName.MatchString(text) || text[0] >= '0' && text[0] <= '9' {
		return errors.New("must be a DNS name of at most 63 characters that begins with a letter, " +
			"such as qat.intel.com")
	}
	*n = driverName(text)
	return nil
}

// A nodeName is a flag with the name of a Node object, or none.
type nodeName string

// String implements [flag.Value].
func (n *nodeName) String() string { return string(*n) }

// Set implements [flag.Value].
func (n *nodeName) Set(text string) error {
	if len(text) > 253 || text != "" && !dnsName.MatchString(text) {
		return errors.New("must be the name of a Node, in lower case")
	}
	*n = nodeName(text)
	return nil
}

// defaultOptions are the options without any flags.
func defaultOptions(getenv func(string) string) *options {
	o := &options{
		Options:     program.DefaultOptions("/run/qat_dra_driver/status.sock"),
		driverName:  program.Namespace,
		kubeletRoot: "/var/lib/kubelet",
		kubeletDir:  "/var/lib/kubelet/device-plugins", // whatever the root is, as it is built into the kubelet
		cdiDir:      "/var/run/cdi",
		taintEffect: noSchedule,
		podUID:      getenv("POD_UID"),
	}
	o.QAT.NodeName = getenv("NODE_NAME")
	o.QAT.Attributes = true
	return o
}

// newFlagSet returns the flags, which set o.
func newFlagSet(o *options) *flag.FlagSet {
	flags := o.NewFlagSet("qat_dra_driver")
	flags.Var((*driverName)(&o.driverName), "driver-name",
		"`name` of the driver, which DeviceClasses select devices by")
	flags.Var((*nodeName)(&o.QAT.NodeName), "node-name",
		"`name` of the Node that the driver runs on; by default the value of the environment variable NODE_NAME")
	flags.Var(flagvalue.Directory(&o.QAT.DevRoot), "dev-root",
		"`directory` where the host's /dev is mounted; containers always get paths that start with /dev")
	flags.Var(flagvalue.NonEmpty(&o.kubeletRoot, "the path of a directory"), "kubelet-root",
		"`directory` of the kubelet, with plugins_registry and plugins")
	flags.Var(flagvalue.NonEmpty(&o.kubeletDir, "the path of a directory"), "kubelet-dir",
		"`directory` of the sockets of device plugins, and of the lock that qat_plugin also takes")
	flags.Var(flagvalue.NonEmpty(&o.cdiDir, "the path of a directory"), "cdi-dir",
		"`directory` of the CDI specs of prepared claims; it is created if it does not exist")
	flags.Var(flagvalue.OptionalPath(&o.kubeconfig), "kubeconfig",
		"kubeconfig `file` for the API server; empty uses the service account of the pod")
	flags.Var(flagvalue.OneOf(&o.taintEffect, noSchedule, noExecute), "unhealthy-taint-effect",
		"`effect` of the taints of devices that must not be used: NoSchedule keeps new pods away, "+
			"NoExecute also evicts pods that use them")
	flags.BoolVar(&o.deviceMetadata, "device-metadata", false,
		"also give containers files with the attributes of their devices (KEP-5304)")
	flags.BoolVar(&o.assumeCDI, "assume-cdi", false,
		"state that the container runtime supports CDI, for containerd 1.7 with enable_cdi")
	return flags
}

const about = "qat_dra_driver offers the QuickAssist (QAT) virtual functions of this host to Kubernetes through " +
	"Dynamic Resource Allocation, as they come and go."

// parseFlags parses the command line and finds out how to reach the API server. The error is as
// that of [program.Options.Parse].
func parseFlags(args []string, getenv func(string) string, out io.Writer) (*options, error) {
	o := defaultOptions(getenv)
	if err := o.Parse(newFlagSet(o), args, about, out); err != nil {
		return nil, err
	}
	if o.ShowVersion {
		return o, nil
	}
	if o.QAT.NodeName == "" {
		return nil, errors.New("-node-name: invalid value \"\": must be the name of the Node, " +
			"unless the environment variable NODE_NAME has it")
	}
	var err error
	if o.kubeconfig == "" {
		if o.api, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("-kubeconfig: invalid value \"\": must be a kubeconfig file, except in a pod with "+
				"a service account: %w", err)
		}
	} else if o.api, err = clientcmd.BuildConfigFromFlags("", o.kubeconfig); err != nil {
		return nil, fmt.Errorf("-kubeconfig: invalid value %q: must be a valid kubeconfig: %w", o.kubeconfig, err)
	}
	o.api.UserAgent = "qat_dra_driver/" + version
	return o, nil
}

// otherDriver returns the registration socket of another driver with the same name, such as
// Intel's, or "" if this one uses the same socket.
func (o *options) otherDriver() string {
	if o.podUID == "" {
		return ""
	}
	return filepath.Join(o.kubeletRoot, "plugins_registry", o.driverName+"-reg.sock")
}
