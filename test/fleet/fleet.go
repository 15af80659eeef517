// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"

	"qatplugin/draapi"
	"qatplugin/test/fleet/controlplane"
)

const (
	namespace      = "qat"
	serviceAccount = "intel-qat-dra-driver"
	setupWorkers   = 16
)

// runDriver runs the DRA driver of a node until ctx ends.
type runDriver func(ctx context.Context, n *node, config *rest.Config) error

// A fleet is an API server with nodes, and the driver on each of them. All drivers are in this
// process, and each has a connection of its own.
type fleet struct {
	*controlplane.ControlPlane
	admin    kubernetes.Interface
	dir      string
	nodes    []*node
	configs  []*rest.Config // of the nodes' drivers
	observer *observer
	traffic  traffic
}

// newFleet starts an API server and creates the Node objects. It starts no driver.
func newFleet(ctx context.Context, programs string, size int, sync bool) (_ *fleet, err error) {
	dir, err := os.MkdirTemp("", "fleet-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	c, err := controlplane.Start(ctx, controlplane.Options{Programs: programs, Dir: dir, NoSync: !sync})
	if err != nil {
		return nil, err
	}
	f := &fleet{ControlPlane: c, dir: dir}
	defer func() {
		if err != nil {
			c.Stop()
		}
	}()
	if f.admin, err = kubernetes.NewForConfig(protobuf(c.Config())); err != nil {
		return nil, err
	}
	if err := f.authorize(ctx); err != nil {
		return nil, err
	}
	f.nodes, f.configs = make([]*node, size), make([]*rest.Config, size)
	errs := make([]error, size)
	workqueue.ParallelizeUntil(ctx, setupWorkers, size, func(i int) { errs[i] = f.addNode(ctx, i) })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return f, nil
}

// protobuf returns a copy of a configuration for clients that encode objects in protobuf.
func protobuf(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	return config
}

// close ends the API server and removes all files.
func (f *fleet) close() error {
	f.Stop()
	return os.RemoveAll(f.dir)
}

// authorize creates the service account of the drivers, with the permissions of draapi.
func (f *fleet) authorize(ctx context.Context) error {
	create, meta := metav1.CreateOptions{}, metav1.ObjectMeta{Name: serviceAccount}
	_, err1 := f.admin.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, create)
	_, err2 := f.admin.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, create)
	_, err3 := f.admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{
		ObjectMeta: meta,
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get"}},
			{APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceclaims"}, Verbs: []string{"get"}},
			{
				APIGroups: []string{"resource.k8s.io"},
				Resources: []string{"resourceslices"},
				Verbs:     []string{"list", "watch", "get", "create", "update", "delete"},
			},
		},
	}, create)
	_, err4 := f.admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: serviceAccount},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: serviceAccount}},
	}, create)
	return errors.Join(err1, err2, err3, err4)
}

// addNode creates a Node object, and a token like that of a pod on this node.
func (f *fleet) addNode(ctx context.Context, i int) error {
	n := newNode(i)
	object, err := f.admin.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.name},
		Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{
			ContainerRuntimeVersion: "containerd://2.1.0", // draapi refuses one without CDI
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	token, err := f.admin.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, serviceAccount,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{
				APIVersion: "v1", Kind: "Node", Name: object.Name, UID: object.UID,
			},
		}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("token for %s: %w", n.name, err)
	}
	f.nodes[i], f.configs[i] = n, f.ConfigFor(token.Status.Token)
	f.traffic.record(i, f.configs[i])
	return nil
}

// start starts the observer and all drivers. The returned function ends them.
func (f *fleet) start(ctx context.Context, run runDriver) (stop func() error) {
	f.observer = newObserver(f.admin, f.nodes)
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { f.observer.run(ctx) })
	errs := make([]error, len(f.nodes))
	for i, n := range f.nodes {
		running.Go(func() { errs[i] = run(ctx, n, f.configs[i]) })
	}
	return func() error {
		cancel()
		running.Wait()
		return errors.Join(errs...)
	}
}

// ours returns the driver of this project, with its directories below dir.
func ours(dir string) runDriver {
	return func(ctx context.Context, n *node, config *rest.Config) error {
		root := filepath.Join(dir, n.name)
		if err := os.MkdirAll(filepath.Join(root, "plugins_registry"), 0o755); err != nil {
			return err
		}
		return draapi.NewDriver(driverName, n,
			draapi.WithNodeName(n.name),
			draapi.WithRESTConfig(config),
			draapi.WithKubeletRoot(root),
			draapi.WithCDIDir(filepath.Join(root, "cdi")),
		).Run(ctx)
	}
}
