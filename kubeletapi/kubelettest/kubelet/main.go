// Command kubelet is a kubelet's end of the device plugin API for trying a plugin out: it prints each list of devices that plugins send. It
// does what package kubelettest does, and like a kubelet it deletes every socket in its directory when it starts.
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
	dir := flag.String("dir", "/tmp/kubelet", "`directory` for kubelet.sock and the plugins' sockets; it is made when it is not there")
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
	k, err := kubelettest.Start(dir, kubelettest.OnList(func(l kubelettest.List) { fmt.Println(line(l)) }))
	if err != nil {
		return err
	}
	defer k.Stop()
	fmt.Println("waiting for plugins at", k.Socket())
	<-ctx.Done()
	return nil
}

// line is a list for people.
func line(l kubelettest.List) string {
	devices := make([]string, 0, len(l.Devices))
	for _, d := range l.Devices {
		devices = append(devices, d.ID+" "+d.Health)
	}
	return fmt.Sprintf("%s  %s: %d  %s", l.Time.Format("15:04:05.000000"), l.Resource, len(devices), strings.Join(devices, ", "))
}
