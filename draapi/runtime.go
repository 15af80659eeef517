// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"qatplugin/devtree"
	"qatplugin/internal/retry"
)

// causeNoCDI is the Cause of all devices while the container runtime ignores CDI devices.
const causeNoCDI = "no-cdi"

const (
	runtimeFirst    = time.Second // between attempts to get the Node
	runtimeMax      = 30 * time.Second
	runtimeInterval = time.Minute // between looks at a Node whose container runtime ignores CDI
	runtimePause    = 2 * time.Second
)

// runtimeState is what is known of the Node's container runtime.
type runtimeState struct {
	known   bool
	version string // as the Node reports it; "" if it does not
	err     error  // why it cannot inject devices; nil if it can

	from, to *devtree.Tree // the last argument of withoutCDI, and its result
}

// withoutCDI returns the Tree itself, or one in which no device is healthy if the container
// runtime ignores CDI devices. A claim would then be prepared, and its pod run without the
// devices and without an error.
func (s *runtimeState) withoutCDI(t *devtree.Tree) *devtree.Tree {
	if s.err == nil {
		return t
	}
	if t == s.from && s.to != nil {
		return s.to
	}
	b := t.Edit()
	for r := range t.Resources() {
		for d := range r.Devices() {
			unfit := *d
			unfit.Health, unfit.Reason, unfit.Cause = devtree.Unhealthy, s.err.Error(), causeNoCDI
			_ = b.Put(r.Name(), &unfit) // valid, because d is
		}
	}
	s.from, s.to = t, b.Build()
	return s.to
}

// askRuntime makes watchRuntime get the Node again.
func (d *Driver) askRuntime() {
	select {
	case d.parts.ask <- struct{}{}:
	default:
	}
}

// watchRuntime checks whether the container runtime injects CDI devices, until ctx ends. It gets
// the Node again after each askRuntime and, while the runtime does not, after runtimeInterval.
func (d *Driver) watchRuntime(ctx context.Context) {
	log := d.parts.log
	errorLog := retry.ErrorLog{Log: log, Interval: 10 * time.Minute}
	backOff := retry.BackOff{First: runtimeFirst, Limit: runtimeMax}
	for {
		var again <-chan time.Time        // nil: only when asked
		quiet := time.After(runtimePause) // many calls may fail at once
		node, err := d.parts.client.GetNode(ctx, d.config.nodeName)
		switch {
		case ctx.Err() != nil:
			return
		case apierrors.IsForbidden(err):
			errorLog.Report(err, "Cannot check the container runtime, assuming that it supports CDI; "+
				"allow the driver's service account to get nodes", "node", d.config.nodeName)
			d.setRuntime("", nil)
		case err != nil:
			errorLog.Report(err, "Cannot get the Node, trying again", "node", d.config.nodeName)
			again = time.After(backOff.Next())
		default:
			errorLog.Clear()
			backOff.Reset()
			version := node.Status.NodeInfo.ContainerRuntimeVersion
			problem := checkRuntime(version, d.config.assumeCDI)
			d.logRuntime(log, version, problem)
			d.setRuntime(version, problem)
			if problem != nil {
				again = time.After(runtimeInterval)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
			continue
		case <-d.parts.ask:
		}
		select {
		case <-ctx.Done():
			return
		case <-quiet:
		}
	}
}

// logRuntime logs what is new of the container runtime.
func (d *Driver) logRuntime(log klog.Logger, version string, problem error) {
	d.mu.Lock()
	before := d.runtime
	d.mu.Unlock()
	switch {
	case before.known && before.version == version:
	case problem != nil:
		log.Error(problem, "The container runtime ignores the devices of claims, so no device is offered",
			"node", d.config.nodeName, "runtime", version)
	case before.err != nil:
		log.Info("The container runtime supports CDI, offering the devices",
			"node", d.config.nodeName, "runtime", version)
	default:
		log.V(1).Info("Found the container runtime", "node", d.config.nodeName, "runtime", version)
		if version != "" && !knownRuntime.MatchString(version) {
			log.Info("Unknown container runtime: it must support CDI, or pods run without devices", "runtime", version)
		}
	}
}

// setRuntime records what is known of the container runtime.
func (d *Driver) setRuntime(version string, problem error) {
	d.mu.Lock()
	isFirst := !d.runtime.known
	d.runtime = runtimeState{known: true, version: version, err: problem}
	d.mu.Unlock()
	d.refresh()
	if isFirst {
		close(d.parts.known)
	}
}

// waitForRuntime waits until the container runtime is known. It returns an error if that ignores
// the devices of claims.
func (d *Driver) waitForRuntime(ctx context.Context) error {
	select {
	case <-d.parts.known:
		return d.CheckRuntime(ctx)
	case <-ctx.Done():
		return fmt.Errorf("find out the container runtime from Node %s: %w", d.config.nodeName, ctx.Err())
	}
}

// knownRuntime matches the versions that checkRuntime knows, such as "containerd://1.7.27".
var knownRuntime = regexp.MustCompile(`^(containerd|cri-o)://v?(\d+)\.(\d+)`)

// checkRuntime returns an error if a container runtime of that version ignores the CDI devices
// that the kubelet names in its requests (CRI's ContainerConfig, CDIDevices), unless assume is
// set.
func checkRuntime(version string, assume bool) error {
	parts := knownRuntime.FindStringSubmatch(version)
	if parts == nil || assume {
		return nil
	}
	major, _ := strconv.Atoi(parts[2])
	minor, _ := strconv.Atoi(parts[3])
	atLeast := func(wantMajor, wantMinor int) bool {
		return major > wantMajor || major == wantMajor && minor >= wantMinor
	}
	name := strings.Replace(version, "://", " ", 1)
	switch {
	case parts[1] == "containerd" && !atLeast(1, 7):
		return fmt.Errorf("%s ignores the CDI devices of claims, so pods would run without them: "+
			"upgrade the node to containerd 2.0 or newer", name)
	case parts[1] == "containerd" && !atLeast(2, 0):
		return errors.New(name + " ignores the CDI devices of claims unless enable_cdi is set: upgrade the node to " +
			"containerd 2.0 or newer, or to 1.7.12 or newer with enable_cdi = true in its plugin " +
			"io.containerd.grpc.v1.cri, and set the driver's option that assumes CDI")
	case parts[1] == "cri-o" && !atLeast(1, 28):
		return fmt.Errorf("%s ignores the CDI devices of claims, so pods would run without them: "+
			"upgrade the node to CRI-O 1.28 or newer", name)
	}
	return nil
}
