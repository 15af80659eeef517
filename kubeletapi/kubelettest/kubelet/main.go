// SPDX-License-Identifier: Apache-2.0

// Command kubelet plays the kubelet for a device plugin that is being tried out without a
// cluster. It prints each list of devices that it receives. Like a real kubelet, it
// deletes every socket in its directory when it starts.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"qatplugin/kubeletapi/kubelettest"
)

func main() {
	dir := flag.String("dir", "/tmp/kubelet", "`directory` of kubelet.sock and of plugins; created if missing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "kubelet:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	k, err := kubelettest.Start(dir, kubelettest.OnList(printList))
	if err != nil {
		return err
	}
	defer k.Stop()
	fmt.Println("waiting for plugins at", k.Socket())
	<-ctx.Done()
	return nil
}

func printList(l kubelettest.List) {
	var devices []string
	for _, d := range l.Devices {
		devices = append(devices, d.ID+" "+d.Health)
	}
	fmt.Printf("%s  %s: %d  %s\n",
		l.Time.Format("15:04:05.000000"), l.Resource, len(devices), strings.Join(devices, ", "))
}
