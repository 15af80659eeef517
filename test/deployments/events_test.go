// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
)

// TestEventsNeedNothingButEvents checks the rights of the service account, which are in the
// namespace of the Events of Nodes, and that the pod of the overlay gets the token of that
// account.
func TestEventsNeedNothingButEvents(t *testing.T) {
	for overlay, rbac := range map[string]string{"events": eventsRBAC, "dra-events": draEventsRBAC} {
		t.Run(overlay, func(t *testing.T) {
			testEvents(t, overlayNamed(t, overlay), decode(t, kustomize(t, manifests+"/"+rbac)))
		})
	}
}

func testEvents(t *testing.T, p plugin, got objects) {
	if len(got.roles) != 1 || len(got.bindings) != 1 || len(p.accounts) != 1 {
		t.Fatalf("%d roles, %d bindings, %d service accounts; want one of each",
			len(got.roles), len(got.bindings), len(p.accounts))
	}
	role, binding, account := got.roles[0], got.bindings[0], p.accounts[0]
	rules := []rbacv1.PolicyRule{{
		APIGroups: []string{"events.k8s.io"},
		Resources: []string{"events"},
		Verbs:     []string{"create", "patch"},
	}}
	if diff := cmp.Diff(rules, role.Rules); diff != "" || role.Namespace != "default" {
		t.Errorf("rules in the namespace %s (-want +got)\n%s", role.Namespace, diff)
	}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account.Name, Namespace: "qat"}}
	if binding.Namespace != role.Namespace || binding.RoleRef != ref || !cmp.Equal(binding.Subjects, subjects) {
		t.Errorf("binding %+v", binding)
	}
	if p.podSpec().ServiceAccountName != account.Name || isNilOr(account.AutomountServiceAccountToken, true) {
		t.Errorf("pod with the account %s, account %+v", p.podSpec().ServiceAccountName, account)
	}
	m, _ := p.mount(t, "/var/run/secrets/kubernetes.io/serviceaccount/token")
	if m == nil || m.SubPath != "" || !m.ReadOnly {
		t.Errorf("mount of the token: %+v", m)
	}
}
