// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"strings"
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestDRARights checks what the service account of the DRA driver may do, and that the
// ValidatingAdmissionPolicy keeps the driver of one node away from the slices of another.
func TestDRARights(t *testing.T) {
	const account = "intel-qat-dra-driver"
	n := openNode(t)
	dir := draKustomization(t, "qat_dra_driver")
	n.addNamespace(pluginNamespace, warnRestricted)
	t.Cleanup(func() { kubectl(t, "delete", "--ignore-not-found", "-n", pluginNamespace, "-k", dir) })
	kubectl(t, "apply", "--validate=strict", "-n", pluginNamespace, "-k", dir)
	checkGrants(t, account,
		"nodes [] [] [get]",
		"resourceclaims.resource.k8s.io [] [] [get]",
		"resourceslices.resource.k8s.io [] [] [get list watch create update delete]")

	driverOn := func(node string) kubernetes.Interface {
		user := rest.ImpersonationConfig{
			UserName: accountUser(account),
			Groups:   []string{"system:serviceaccounts", "system:authenticated"},
		}
		if node != "" {
			user.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {node}}
		}
		return openClient(t, user)
	}
	slice := func(node, driver, pool string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{
			ObjectMeta: metav1.ObjectMeta{Name: "rights"},
			Spec: resourcev1.ResourceSliceSpec{
				Driver: driver, NodeName: &node,
				Pool: resourcev1.ResourcePool{Name: pool, ResourceSliceCount: 1},
			},
		}
	}
	dryRun := []string{metav1.DryRunAll}
	shared := slice("", draDriver, "node2")
	shared.Spec.NodeName, shared.Spec.AllNodes = nil, new(true)

	for _, test := range []struct {
		name  string
		node  string // of the driver's token
		slice *resourcev1.ResourceSlice
		want  string // part of the error; "" if it is allowed
	}{
		{"own node", "node2", slice("node2", draDriver, "node2"), ""},
		{"other node", "node3", slice("node2", draDriver, "node3"), "may only write ResourceSlices of this node"},
		{"all nodes", "node2", shared, "may only write ResourceSlices of this node"},
		{"other driver", "node2", slice("node2", "gpu.example.com", "node2"),
			"may only write ResourceSlices of " + draDriver},
		{"other pool", "node2", slice("node2", draDriver, "node3"), "may only write ResourceSlices of the pool"},
		{"token without a node", "", slice("node2", draDriver, "node2"), "the token names no node"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client := driverOn(test.node).ResourceV1().ResourceSlices()
			// The API server uses a new policy after moments.
			poll(t, func() error {
				_, err := client.Create(t.Context(), test.slice, metav1.CreateOptions{DryRun: dryRun})
				return checkRefusal(err, test.want)
			})
		})
	}

	// Updates and deletions.
	slices := n.client.ResourceV1().ResourceSlices()
	created, err := slices.Create(t.Context(), slice("node2", draDriver, "node2"), metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() { kubectl(t, "delete", "resourceslice", created.Name) })
	created.Labels = map[string]string{"changed": "yes"}
	for node, want := range map[string]string{"node2": "", "node3": "may only write ResourceSlices of this node"} {
		client := driverOn(node).ResourceV1().ResourceSlices()
		_, err := client.Update(t.Context(), created, metav1.UpdateOptions{DryRun: dryRun})
		if err := checkRefusal(err, want); err != nil {
			t.Errorf("update by the driver of %s: %v", node, err)
		}
		err = client.Delete(t.Context(), created.Name, metav1.DeleteOptions{DryRun: dryRun})
		if err := checkRefusal(err, want); err != nil {
			t.Errorf("deletion by the driver of %s: %v", node, err)
		}
	}
}

// checkRefusal returns an error unless err contains want, or is nil if want is empty.
func checkRefusal(err error, want string) error {
	switch {
	case want == "" && err != nil:
		return fmt.Errorf("refused: %w", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		return fmt.Errorf("error %v, want one with %q", err, want)
	}
	return nil
}
