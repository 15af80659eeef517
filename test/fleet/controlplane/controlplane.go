// SPDX-License-Identifier: Apache-2.0

// Package controlplane runs etcd and kube-apiserver as processes, for tests and measurements that
// need the real API server and no kubelet. Priority and fairness, admission and the limits of
// requests are at their defaults. There is no controller and no scheduler.
package controlplane

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
)

const (
	adminToken  = "admin"
	readyPeriod = 20 * time.Millisecond // between two looks whether a program is ready
	startTime   = 2 * time.Minute       // in which a program must become ready, with other load on the machine
)

// Options say how to run the programs.
type Options struct {
	Programs string // directory with the programs kube-apiserver and etcd
	Dir      string // an empty directory for their data and logs
	NoSync   bool   // etcd does not wait until its writes are on the disk
}

// A ControlPlane is a running API server with its etcd. Its methods must not be called by several
// goroutines at once, except for Config and Metrics.
type ControlPlane struct {
	options         Options
	address         string // of the API server
	etcdURL         string
	etcd, apiServer *process
	earlier         time.Duration // CPU time of API servers that have ended
}

// Start starts the programs and waits until the API server is ready. The caller must call Stop.
func Start(ctx context.Context, o Options) (*ControlPlane, error) {
	addresses, err := freeAddresses(3)
	if err != nil {
		return nil, err
	}
	c := &ControlPlane{options: o, address: addresses[0], etcdURL: "http://" + addresses[1]}
	if err := c.writeFiles(); err != nil {
		return nil, err
	}
	peers := "http://" + addresses[2]
	args := []string{
		"--data-dir=" + c.file("etcd"),
		"--listen-client-urls=" + c.etcdURL, "--advertise-client-urls=" + c.etcdURL,
		"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=default=" + peers,
	}
	if o.NoSync {
		args = append(args, "--unsafe-no-fsync")
	}
	if c.etcd, err = c.start("etcd", args); err != nil {
		return nil, err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// writeFiles writes the tokens and the key for tokens of service accounts.
func (c *ControlPlane) writeFiles() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	return errors.Join(
		os.WriteFile(c.file("sa.key"), text, 0o600),
		os.WriteFile(c.file("tokens.csv"), []byte(adminToken+",admin,admin,system:masters\n"), 0o600))
}

func (c *ControlPlane) file(name string) string { return filepath.Join(c.options.Dir, name) }

// StartAPIServer starts the API server after StopAPIServer, and waits until it is ready.
func (c *ControlPlane) StartAPIServer(ctx context.Context) error {
	host, port, _ := net.SplitHostPort(c.address)
	p, err := c.start("kube-apiserver", []string{
		"--etcd-servers=" + c.etcdURL, "--bind-address=" + host, "--secure-port=" + port,
		"--advertise-address=" + host, "--endpoint-reconciler-type=none", "--cert-dir=" + c.file("certs"),
		"--token-auth-file=" + c.file("tokens.csv"), "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.file("sa.key"), "--service-account-signing-key-file=" + c.file("sa.key"),
		"--service-cluster-ip-range=10.0.0.0/24",
	})
	if err != nil {
		return err
	}
	c.apiServer = p
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		_, err := c.get(ctx, "/readyz")
		if err == nil {
			return nil
		}
		select {
		case <-time.After(readyPeriod):
		case <-p.ended:
			return fmt.Errorf("kube-apiserver has ended; see %s", p.log)
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver is not ready: %w; see %s", err, p.log)
		}
	}
}

// StopAPIServer sends SIGTERM to the API server unless grace is 0, and SIGKILL when it has not
// ended after this time. While watches are open, the API server ends a minute after SIGTERM
// (-request-timeout). The kubelet grants a static pod 30 s.
func (c *ControlPlane) StopAPIServer(grace time.Duration) {
	c.apiServer.stop(grace)
	c.earlier += c.apiServer.cmd.ProcessState.UserTime() + c.apiServer.cmd.ProcessState.SystemTime()
}

// Stop ends both programs. Their data remains.
func (c *ControlPlane) Stop() {
	if c.apiServer != nil {
		c.apiServer.stop(0)
	}
	c.etcd.stop(0)
}

// Config returns a client configuration with all rights, and without a limit of requests.
func (c *ControlPlane) Config() *rest.Config { return c.ConfigFor(adminToken) }

// ConfigFor returns a client configuration with this bearer token, and without a limit of requests.
// A nil error of Start guarantees that the certificate exists.
func (c *ControlPlane) ConfigFor(token string) *rest.Config {
	return &rest.Config{
		Host:            "https://" + c.address,
		BearerToken:     token,
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.file("certs/apiserver.crt")},
		QPS:             -1,
	}
}

// get requests a path of the API server with all rights.
func (c *ControlPlane) get(ctx context.Context, path string) ([]byte, error) {
	config := c.Config()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, response.Status, body)
	}
	return body, err
}

// freeAddresses returns n addresses at which nobody listens.
func freeAddresses(n int) (addresses []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// process is a running program.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	log   string
}

// start starts a program, which ends with this process. Its output is appended to its log.
func (c *ControlPlane) start(name string, args []string) (*process, error) {
	p := &process{ended: make(chan struct{}), log: c.file(name + ".log")}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(filepath.Join(c.options.Programs, name), args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *process) stop(grace time.Duration) {
	if grace > 0 {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if it has ended
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}
