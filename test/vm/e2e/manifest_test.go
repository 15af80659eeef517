// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// container is a container of a pod, as far as execInContainer can create it without a container
// runtime.
type container struct {
	Args          []string // with variables expanded
	Mounts        []mount  // in the order in which a runtime makes them: parents first
	UserNamespace bool     // no manifest asks for it; see TestPodWithoutUeventsIsNotReadyAndAudits
}

// mount is a volume and its mount point.
type mount struct {
	Source    string // path on the host, "proc", "sysfs", or "" for an empty directory
	Target    string
	ReadOnly  bool
	Recursive bool // mounts below it are read-only too
}

// manifest is the part of a DaemonSet or a ConfigMap that the tests use.
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

// baseContainer returns the container of deployments/qat_plugin/base, which run.sh copies to /pod.
func baseContainer(t *testing.T) *container {
	t.Helper()
	daemonSet, values := readManifests(t)
	pod := daemonSet.Spec.Template.Spec
	spec := pod.Containers[0]
	s := spec.SecurityContext
	if pod.HostNetwork || pod.HostPID || s.Privileged || s.AllowPrivilegeEscalation || !s.ReadOnlyRootFilesystem ||
		s.RunAsUser != 0 || len(s.Capabilities.Add) > 0 || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
		t.Fatalf("execInContainer does not implement this of the manifest: %+v, hostNetwork %v, hostPID %v",
			s, pod.HostNetwork, pod.HostPID)
	}
	c := &container{}
	for _, arg := range spec.Args {
		for _, e := range spec.Env {
			arg = strings.ReplaceAll(arg, "$("+e.Name+")", values[e.ValueFrom.ConfigMapKeyRef.Key])
		}
		c.Args = append(c.Args, arg)
	}
	for _, m := range spec.VolumeMounts {
		i := slices.IndexFunc(pod.Volumes, func(v volume) bool { return v.Name == m.Name })
		if i < 0 || pod.Volumes[i].HostPath == nil && pod.Volumes[i].EmptyDir == nil || m.SubPath != "" {
			t.Fatalf("execInContainer does not implement this volume mount: %+v", m)
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

// readManifests returns the DaemonSet in /pod and the data of its ConfigMap.
func readManifests(t *testing.T) (daemonSet *manifest, values map[string]string) {
	t.Helper()
	for _, file := range glob(t, "/pod/*.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
			var m manifest
			if err := decoder.Decode(&m); err != nil {
				break // the end of the file, or an object that does not fit into manifest
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
		t.Fatalf("no DaemonSet and ConfigMap in %q", glob(t, "/pod/*"))
	}
	return daemonSet, values
}
