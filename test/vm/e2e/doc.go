// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the plugin in a virtual machine, with a real Linux kernel and the kubelet's
// own device manager.
//
// test/vm/run.sh (make e2e) runs these tests as the first process of the machine. They can
// therefore load modules, add and remove PCI functions, and start programs. On any other machine
// the package prints that it runs no tests.
package e2e
