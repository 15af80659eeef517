// SPDX-License-Identifier: Apache-2.0

// Package chaos injects faults into the environment of a running qat_plugin, and checks that the
// plugin recovers.
//
// The plugin is the program that is built from cmd/qat_plugin. It runs on a look-alike host and
// with a kubelet's end of the connection, in a user, mount and network namespace of its own. The
// faults follow one another in an order that the seed decides. After each fault the test checks
// that
//
//   - the kubelet has the lists that it gets from an instance that starts now
//   - a VF that goes and comes back is followed, and can be allocated
//   - the plugin has no more descriptors and threads than before, within a bound
//
// While a fault lasts, a second instance starts and has to end on SIGTERM in time. At the end the
// test compares the memory of the first instance with what it was at the start, and its goroutines
// with those of an instance that just started.
//
// Run it with `make chaos`, or with `go test . -args -seed N`. A fault that needs FUSE is skipped
// on a machine without it.
package chaos
