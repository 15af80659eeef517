package e2e

import (
	"bytes"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A container is what a manifest says of one, as far as a kernel without a container runtime can be held to it.
type container struct {
	Args   []string // with the variables filled in
	Mounts []mount  // in the order in which a runtime makes them: what lies deeper comes later
	// What may differ from the manifest, for tests of what goes wrong then.
	UserNamespace bool
}

// A mount is a volume and where it is mounted.
type mount struct {
	Source    string // path on the host; "" is an empty directory
	Target    string
	ReadOnly  bool
	Recursive bool // read-only with all that is mounted below it
}

// manifest is the part of a DaemonSet and a ConfigMap that is read.
type manifest struct {
	Kind string
	Data map[string]string
	Spec struct {
		Template struct {
			Spec struct {
				Containers []struct {
					Args []string
					Env  []struct {
						Name      string
						ValueFrom struct {
							ConfigMapKeyRef struct{ Key string } `yaml:"configMapKeyRef"`
						} `yaml:"valueFrom"`
					}
					SecurityContext struct {
						RunAsUser                int  `yaml:"runAsUser"`
						RunAsGroup               int  `yaml:"runAsGroup"`
						AllowPrivilegeEscalation bool `yaml:"allowPrivilegeEscalation"`
						ReadOnlyRootFilesystem   bool `yaml:"readOnlyRootFilesystem"`
						Privileged               bool
						Capabilities             struct{ Add, Drop []string }
					} `yaml:"securityContext"`
					VolumeMounts []struct {
						Name              string
						MountPath         string `yaml:"mountPath"`
						SubPath           string `yaml:"subPath"`
						ReadOnly          bool   `yaml:"readOnly"`
						RecursiveReadOnly string `yaml:"recursiveReadOnly"`
					} `yaml:"volumeMounts"`
				}
				HostNetwork bool `yaml:"hostNetwork"`
				HostPID     bool `yaml:"hostPID"`
				Volumes     []volume
			}
		}
	}
}

type volume struct {
	Name     string
	HostPath *struct{ Path string } `yaml:"hostPath"`
	EmptyDir *struct{}              `yaml:"emptyDir"`
}

// shipped is the container of deployments/qat_plugin/base, which run.sh lays into the machine.
func shipped(t *testing.T) *container {
	t.Helper()
	values := map[string]string{}
	var daemonSet *manifest
	for _, file := range glob(t, "/pod/*.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
			var m manifest
			if err := decoder.Decode(&m); err != nil {
				break // the end, or what is of another kind
			}
			switch m.Kind {
			case "ConfigMap":
				values = m.Data
			case "DaemonSet":
				daemonSet = &m
			}
		}
	}
	if daemonSet == nil || len(values) == 0 {
		t.Fatalf("there is no DaemonSet with its ConfigMap in %q", glob(t, "/pod/*"))
	}
	pod := daemonSet.Spec.Template.Spec
	of := pod.Containers[0]
	s := of.SecurityContext
	if pod.HostNetwork || pod.HostPID || s.Privileged || s.AllowPrivilegeEscalation || !s.ReadOnlyRootFilesystem || s.RunAsUser != 0 ||
		len(s.Capabilities.Add) > 0 || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
		t.Fatalf("the manifest asks for other things than this test gives: %+v, hostNetwork %v, hostPID %v", s, pod.HostNetwork, pod.HostPID)
	}
	c := &container{}
	for _, arg := range of.Args {
		for _, e := range of.Env {
			arg = strings.ReplaceAll(arg, "$("+e.Name+")", values[e.ValueFrom.ConfigMapKeyRef.Key])
		}
		c.Args = append(c.Args, arg)
	}
	for _, m := range of.VolumeMounts {
		i := slices.IndexFunc(pod.Volumes, func(v volume) bool { return v.Name == m.Name })
		if i < 0 || pod.Volumes[i].HostPath == nil && pod.Volumes[i].EmptyDir == nil || m.SubPath != "" {
			t.Fatalf("the mount %+v is of a kind that this test does not know", m)
		}
		mounted := mount{Target: m.MountPath, ReadOnly: m.ReadOnly, Recursive: m.RecursiveReadOnly != ""}
		if host := pod.Volumes[i].HostPath; host != nil {
			mounted.Source = host.Path
		}
		c.Mounts = append(c.Mounts, mounted)
	}
	slices.SortStableFunc(c.Mounts, func(a, b mount) int {
		return strings.Count(path.Clean(a.Target), "/") - strings.Count(path.Clean(b.Target), "/")
	})
	return c
}
