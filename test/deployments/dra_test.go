// SPDX-License-Identifier: Apache-2.0

package deployments

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
	dracel "k8s.io/dynamic-resource-allocation/cel"

	"qatplugin/internal/lookalike"
)

const (
	draName    = "intel-qat-dra-driver"
	driverName = "qat.intel.com"
)

func dra(t testing.TB) objects {
	t.Helper()
	return decode(t, kustomize(t, manifests+"/qat_dra_driver"))
}

// TestDriverRights lists all that the service account of the DRA driver may do.
func TestDriverRights(t *testing.T) {
	got := dra(t)
	if len(got.clusterRoles) != 1 || len(got.clusterBindings) != 1 || len(got.accounts) != 1 {
		t.Fatalf("%d cluster roles, %d bindings, %d service accounts; want one of each",
			len(got.clusterRoles), len(got.clusterBindings), len(got.accounts))
	}
	resource := []string{"resource.k8s.io"}
	want := []rbacv1.PolicyRule{
		{APIGroups: resource, Resources: []string{"resourceclaims"}, Verbs: []string{"get"}},
		{
			APIGroups: resource,
			Resources: []string{"resourceslices"},
			Verbs:     []string{"get", "list", "watch", "create", "update", "delete"},
		},
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get"}},
	}
	if diff := cmp.Diff(want, got.clusterRoles[0].Rules); diff != "" || got.clusterRoles[0].AggregationRule != nil {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	account, binding := got.accounts[0], got.clusterBindings[0]
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: got.clusterRoles[0].Name}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account.Name, Namespace: "qat"}}
	if binding.RoleRef != ref || !cmp.Equal(binding.Subjects, subjects) {
		t.Errorf("binding %+v", binding)
	}
	if isNilOr(account.AutomountServiceAccountToken, true) {
		t.Errorf("account %+v mounts its token into other pods", account)
	}
	pod := got.daemonSets[0].Spec.Template.Spec
	if pod.ServiceAccountName != account.Name {
		t.Errorf("pod with the account %q, want %q", pod.ServiceAccountName, account.Name)
	}
}

// TestDriverInAnotherNamespace: a user's kustomization with a namespace also changes the subject of
// the binding.
func TestDriverInAnotherNamespace(t *testing.T) {
	got := decode(t, kustomizeOn(t, "qat_dra_driver", "namespace: accelerators\n"))
	for namespace, of := range map[string]string{
		got.clusterBindings[0].Subjects[0].Namespace: "the binding",
		got.accounts[0].Namespace:                    "the service account",
		got.daemonSets[0].Namespace:                  "the DaemonSet",
	} {
		if namespace != "accelerators" {
			t.Errorf("the namespace of %s is %q", of, namespace)
		}
	}
}

// compileDriverPolicy compiles the admission policy as the API server does
// (k8s.io/apiserver/pkg/admission/plugin/policy/validating/plugin.go, compilePolicy).
func compileDriverPolicy(t *testing.T) validating.Validator {
	t.Helper()
	policies := dra(t).admission
	if len(policies) != 1 {
		t.Fatalf("%d admission policies, want 1", len(policies))
	}
	spec := policies[0].Spec
	base := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
	compiler, err := plugincel.NewCompositedCompiler(base)
	must(t, err)
	compile := func(accessors []plugincel.ExpressionAccessor) plugincel.ConditionEvaluator {
		variables := plugincel.OptionalVariableDeclarations{HasAuthorizer: true}
		evaluator := compiler.CompileCondition(accessors, variables, environment.NewExpressions)
		must(t, errors.Join(evaluator.CompilationErrors()...))
		return evaluator
	}
	for _, v := range spec.Variables {
		variable := &validating.Variable{Name: v.Name, Expression: v.Expression}
		compiled := compiler.CompileAndStoreVariable(
			variable, plugincel.OptionalVariableDeclarations{HasAuthorizer: true}, environment.NewExpressions)
		if compiled.Error != nil {
			t.Fatalf("variable %s: %v", v.Name, compiled.Error)
		}
	}
	var conditions, validations, messages []plugincel.ExpressionAccessor
	for _, c := range spec.MatchConditions {
		conditions = append(conditions, (*matchconditions.MatchCondition)(&c))
	}
	for _, v := range spec.Validations {
		validations = append(validations, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message})
		if v.MessageExpression == "" {
			messages = append(messages, nil)
			continue
		}
		messages = append(messages, &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression})
	}
	matcher := matchconditions.NewMatcher(compile(conditions), spec.FailurePolicy, "policy", "validate", draName)
	return validating.NewValidator(
		compile(validations), matcher, compile(nil), compile(messages), spec.FailurePolicy, nil)
}

// podUser is the user of a service account's token in a pod on a node.
func podUser(namespace, account, node string) user.Info {
	info := serviceaccount.ServiceAccountInfo{Namespace: namespace, Name: account, NodeName: node, PodName: "pod"}
	return info.UserInfo()
}

// slice returns a ResourceSlice.
func slice(node, driver, pool string) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{
		TypeMeta:   metav1.TypeMeta{APIVersion: "resource.k8s.io/v1", Kind: "ResourceSlice"},
		ObjectMeta: metav1.ObjectMeta{Name: "slice"},
		Spec:       resourcev1.ResourceSliceSpec{Driver: driver, Pool: resourcev1.ResourcePool{Name: pool}},
	}
	if node != "" {
		s.Spec.NodeName = &node
	}
	return s
}

// TestDriverWritesOnlySlicesOfItsNode evaluates the admission policy.
func TestDriverWritesOnlySlicesOfItsNode(t *testing.T) {
	policy := compileDriverPolicy(t)
	const other, ofNode = "worker-2", "may only write ResourceSlices of this node"
	own := slice("worker-1", driverName, "worker-1")
	driver := podUser("qat", draName, "worker-1")
	for _, c := range []struct {
		name  string
		user  user.Info
		slice *resourcev1.ResourceSlice
		want  string // a part of the message; "" if the request is allowed
	}{
		{"own slice", driver, own, ""},
		{"own slice, in another namespace", podUser("accelerators", draName, "worker-1"), own, ""},
		{"slice of another node", driver, slice(other, driverName, other), ofNode},
		{"slice of no node", driver, slice("", driverName, "worker-1"), ofNode},
		{"slice of another driver", driver, slice("worker-1", "gpu.example.com", "worker-1"), "of qat.intel.com"},
		{"pool of another node", driver, slice("worker-1", driverName, other), "of the pool with that name"},
		{"token without a node", podUser("qat", draName, ""), own, "names no node"},
		{
			"token without a node, for a slice without a node",
			podUser("qat", draName, ""), slice("", driverName, ""), "names no node",
		},

		{"kubelet", &user.DefaultInfo{Name: "system:node:" + other, Groups: []string{"system:nodes"}}, own, ""},
		{"another driver", podUser("kube-system", "gpu-driver", other), slice(other, "gpu.example.com", other), ""},
		{"a driver of a similar name", podUser("qat", draName+"-2", other), slice(other, "x.example.com", other), ""},
		{"an account with the driver's namespace in its name", podUser("x", "qat", other), own, ""},
		{"the administrator", &user.DefaultInfo{Name: "kubernetes-admin"}, slice("", "x.example.com", "all"), ""},
		{"a user without a name", &user.DefaultInfo{}, own, ""},
	} {
		for _, operation := range []admission.Operation{admission.Create, admission.Update, admission.Delete} {
			t.Run(fmt.Sprintf("%s, %s", c.name, operation), func(t *testing.T) {
				denied := strings.Join(validate(t, policy, operation, c.user, c.slice), "; ")
				if (denied == "") != (c.want == "") || !strings.Contains(denied, c.want) {
					t.Errorf("denied with %q, want %q", denied, c.want)
				}
			})
		}
	}
}

// validate returns the messages with which a policy denies a request.
func validate(
	t *testing.T,
	policy validating.Validator,
	operation admission.Operation,
	user user.Info,
	s *resourcev1.ResourceSlice,
) (messages []string) {
	t.Helper()
	kind := resourcev1.SchemeGroupVersion.WithKind("ResourceSlice")
	resource := resourcev1.SchemeGroupVersion.WithResource("resourceslices")
	var object, old runtime.Object
	if operation != admission.Delete {
		object = s
	}
	if operation != admission.Create {
		old = s
	}
	attributes := admission.NewAttributesRecord(
		object, old, kind, "", s.Name, resource, "", operation, nil, false, user)
	versioned := &admission.VersionedAttributes{
		Attributes:         attributes,
		VersionedObject:    object,
		VersionedOldObject: old,
		VersionedKind:      kind,
	}
	result := policy.Validate(t.Context(), resource, versioned, nil, nil, celconfig.RuntimeCELCostBudget, nil)
	for _, d := range result.Decisions {
		if d.Evaluation == validating.EvalError {
			t.Errorf("error instead of a decision: %s", d.Message)
		}
		if d.Action == validating.ActionDeny {
			messages = append(messages, d.Message)
		}
	}
	return messages
}

// TestDriverPolicyCoversAllWrites: the policy is enforced for each way to write a slice, in each
// version of the API.
func TestDriverPolicyCoversAllWrites(t *testing.T) {
	got := dra(t)
	fail, equivalent := admissionv1.Fail, admissionv1.Equivalent
	want := &admissionv1.MatchResources{
		MatchPolicy: &equivalent,
		ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update, admissionv1.Delete},
			Rule: admissionv1.Rule{
				APIGroups:   []string{"resource.k8s.io"},
				APIVersions: []string{"v1"},
				Resources:   []string{"resourceslices"},
			},
		}}},
	}
	policy := got.admission[0]
	if diff := cmp.Diff(want, policy.Spec.MatchConstraints); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if policy.Spec.FailurePolicy == nil || *policy.Spec.FailurePolicy != fail {
		t.Errorf("failurePolicy %v, want Fail", policy.Spec.FailurePolicy)
	}
	binding := admissionv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName:        policy.Name,
		ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
	}
	if len(got.enforced) != 1 || !cmp.Equal(binding, got.enforced[0].Spec) {
		t.Errorf("bindings %+v, want one with %+v", got.enforced, binding)
	}
}

// serviceSets returns the values of cfg_services that PFs accept, by device ID
// (drivers/crypto/intel/qat, adf_gen4_services_supported and services_supported of qat_6xxx).
func serviceSets() map[string][]string {
	sets := map[string][]string{"4940": {"dcc"}, "4948": {"dcc"}}
	for device, kind := range map[string]struct {
		most     int
		services []string
	}{
		"4940": {2, []string{"asym", "sym", "dc"}},
		"4948": {3, []string{"asym", "sym", "dc", "decomp"}},
	} {
		for chosen := 1; chosen < 1<<len(kind.services); chosen++ {
			var set []string
			for i, service := range kind.services {
				if chosen&(1<<i) != 0 {
					set = append(set, service)
				}
			}
			if len(set) <= kind.most {
				sets[device] = append(sets[device], strings.Join(set, ";"))
			}
		}
	}
	return sets
}

// publishedSlices returns what the driver publishes on a host with all kinds of PFs: behind a
// bridge or not, on two NUMA nodes or an unknown one, and a VF without a PF, as in a guest. Each PF
// has two VFs.
func publishedSlices(t *testing.T) []*resourcev1.ResourceSlice {
	t.Helper()
	host := lookalike.Start(t)
	must(t, host.LoadDriver("vfio-pci", "disable_denylist=1"))
	pfs, want := 0, 0
	add := func(pf lookalike.PF) {
		t.Helper()
		pf.Address = fmt.Sprintf("0000:%02x:00.0", 0x10+4*pfs)
		pf.NUMANode = pfs%3 - 1
		pf.Bridge = pfs%2 == 1
		must(t, host.AddPF(pf))
		must(t, host.SetVFs(pf.Address, 2))
		for _, vf := range host.VFs(pf.Address) {
			must(t, host.Bind(vf, "vfio-pci"))
			want++
		}
		pfs++
	}
	add(lookalike.PF{DeviceID: "37c8"}) // without services
	sets := serviceSets()
	for _, device := range slices.Sorted(maps.Keys(sets)) { // in any other order, NUMA nodes differ
		for _, services := range sets[device] {
			add(lookalike.PF{DeviceID: device, Services: services})
		}
	}
	const guest = "0000:05:00.0"
	must(t, host.AddVF(lookalike.VF{Address: guest, DeviceID: "4941", NUMANode: -1}))
	must(t, host.Bind(guest, "vfio-pci"))
	want++

	published := startDriver(t, overlay{name: "dra", dir: "qat_dra_driver"}, host).Slices()
	devices := 0
	for _, s := range published {
		devices += len(s.Spec.Devices)
	}
	if devices != want {
		t.Fatalf("%d devices are published, want %d", devices, want)
	}
	return published
}

// inCEL returns a device as expressions see it.
func inCEL(driver string, d *resourcev1.Device) dracel.Device {
	return dracel.Device{Driver: driver, Attributes: d.Attributes, Capacity: d.Capacity}
}

// matchesDevice evaluates an expression as the scheduler does. An error would keep the scheduler
// from placing the pod on any node.
func matchesDevice(t *testing.T, expression string, d dracel.Device) bool {
	t.Helper()
	compiled := dracel.GetCompiler(dracel.Features{EnableConsumableCapacity: true}).
		CompileCELExpression(expression, dracel.Options{EnvType: new(environment.NewExpressions)})
	if compiled.Error != nil {
		t.Fatalf("%s: %v", expression, compiled.Error)
	}
	if compiled.MaxCost > resourcev1.CELSelectorExpressionMaxCost {
		t.Errorf("%s: cost %d", expression, compiled.MaxCost)
	}
	matches, _, err := compiled.DeviceMatches(t.Context(), d)
	if err != nil {
		t.Errorf("%s for %+v: %v", expression, d, err)
	}
	return matches
}

// TestEachDeviceHasAttributesOfServices: a selector can name the services without a look whether a
// device has such an attribute, as docs/dra.md says. It is evaluated for each device of the class,
// and an error keeps the scheduler from placing the pod on any node.
func TestEachDeviceHasAttributesOfServices(t *testing.T) {
	matches := 0
	for _, s := range publishedSlices(t) {
		for _, d := range s.Spec.Devices {
			for _, service := range []string{"asym", "sym", "dc", "decomp", "dcc"} {
				expression := `device.attributes["qat.intel.com"].` + service
				has := strings.Contains(";"+stringOf(d.Attributes["services"])+";", ";"+service+";")
				got := matchesDevice(t, expression, inCEL(s.Spec.Driver, &d))
				if got != has {
					t.Errorf("%s of %s is %v, its services are %v", expression, d.Name, got, d.Attributes["services"])
				}
				if got {
					matches++
				}
			}
		}
	}
	if matches == 0 {
		t.Error("no device has a service")
	}
}

// stringOf returns the value of an attribute, or "" without one.
func stringOf(a resourcev1.DeviceAttribute) string {
	if a.StringValue == nil {
		return ""
	}
	return *a.StringValue
}

// TestEachResourceHasAClass: a pod that requests a resource of the device plugin gets a device of
// the class with this extended resource. There is a class for each resource, and no others.
func TestEachResourceHasAClass(t *testing.T) {
	devices := map[string][]dracel.Device{"": {{Driver: driverName}}} // by resource; one without attributes
	for _, s := range publishedSlices(t) {
		for _, d := range s.Spec.Devices {
			resource := *d.Attributes["resource"].StringValue
			devices[resource] = append(devices[resource], inCEL(s.Spec.Driver, &d))
		}
	}
	classes := map[string]resourcev1.DeviceClass{}
	for _, c := range dra(t).classes {
		classes[c.Name] = c
	}
	if len(classes) != len(devices) {
		t.Errorf("%d classes, want %d: %s and one for each resource", len(classes), len(devices), driverName)
	}
	for resource := range devices {
		class := classes[strings.TrimPrefix(resource+"."+driverName, ".")]
		if len(class.Spec.Selectors) != 1 || len(class.Spec.Config) > 0 {
			t.Errorf("resource %q has the class %+v, want one with a selector", resource, class)
			continue
		}
		var extended *string
		if resource != "" {
			extended = new(driverName + "/" + resource)
		}
		if diff := cmp.Diff(extended, class.Spec.ExtendedResourceName); diff != "" {
			t.Errorf("extended resource of the class %s (-want +got):\n%s", class.Name, diff)
		}
		expression := class.Spec.Selectors[0].CEL.Expression
		for of, list := range devices {
			for _, d := range list {
				if got, want := matchesDevice(t, expression, d), resource == "" || of == resource; got != want {
					t.Errorf("class %s and the device %+v: match %v, want %v", class.Name, d, got, want)
				}
				d.Driver = "gpu.example.com"
				if matchesDevice(t, expression, d) {
					t.Errorf("class %s matches a device of another driver", class.Name)
				}
			}
		}
	}
}
