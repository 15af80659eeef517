// Package e2e tests the plugin in a virtual machine, where it meets a real Linux kernel and the kubelet's own device manager.
//
// test/vm/run.sh (make e2e) builds the package's tests as the machine's first process, so each of them may load modules, make and
// remove PCI functions, and start the two programs. On any other machine the package runs nothing and says so.
package e2e
