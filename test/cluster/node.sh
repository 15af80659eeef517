#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: node.sh tests|shell
#
# The node of the test cluster. run.sh starts it as the first process of new mount, process and
# network namespaces. Everything that it starts ends with it.
#
# The node sees the machine's file systems read-only, but has its own /dev, /run, /var/lib and
# /var/log. /sys is the machine's, because runc creates control groups there. They are below one
# group, which run.sh removes.
set -euo pipefail

dir=/var/lib/cluster # files of the node's programs, in memory
socket=/run/containerd/containerd.sock
kubelet=$(dirname "${BASH_SOURCE[0]}")/kubelet.sh
export KUBECONFIG=$dir/kubeconfig
address=10.89.0.1 # of the node, on lo; pods are in 10.88.0.0/24
service=10.0.0.1 # of the service kubernetes, the first of the services' addresses

step() {
	local us=$((${EPOCHREALTIME/./} - CLUSTER_STARTED))
	printf 'cluster: %4d.%02ds %s\n' $((us / 1000000)) $((us % 1000000 / 10000)) "$*"
}

cannot() {
	echo "cluster: cannot run here: $*" >&2
	exit 77
}

fail() {
	echo "cluster: FAILED: $*" >&2
	exit 1
}

# isolate creates the node's own mounts.
isolate() {
	local path values
	mount -n -t tmpfs -o mode=755 tmpfs /run # first, because mount itself writes there
	mount -t tmpfs -o mode=755 tmpfs /var/lib
	mkdir -p $dir/{certs,cni,tmp,sysctl} /var/lib/kubelet /var/lib/dev
	export TMPDIR=$dir/tmp

	# A copy of /dev, to which the tests can add nodes. Later changes by the machine's udev are
	# not visible in it.
	mount -t tmpfs -o mode=755,dev tmpfs /var/lib/dev
	cp -a -x /dev/. /var/lib/dev/ || cannot "device nodes cannot be created"
	mkdir -p /var/lib/dev/{pts,shm,mqueue}
	mount --rbind /dev/pts /var/lib/dev/pts
	mount -t tmpfs tmpfs /var/lib/dev/shm
	mount --move /var/lib/dev /dev
	mkdir -p /dev/vfio

	mount -t tmpfs -o mode=755 tmpfs /var/log
	mkdir -p /run/lock /var/log/containers

	# The kubelet sets some sysctls. To leave the machine's alone, files with the values that it
	# wants hide them.
	while read -r path values; do
		[ -e "/proc/sys/$path" ] || continue
		echo "$values" >"$dir/sysctl/${path//\//.}"
		mount --bind "$dir/sysctl/${path//\//.}" "/proc/sys/$path"
	done <<-END
		vm/overcommit_memory 1
		vm/panic_on_oom 0
		kernel/panic 10
		kernel/panic_on_oops 1
		kernel/keys/root_maxkeys 1000000
		kernel/keys/root_maxbytes 25000000
	END

	mount --bind "$CLUSTER_LOGS" "$CLUSTER_LOGS"
	mount -o remount,bind,ro /
	mount --make-rshared / # as on any node, for pods with mount propagation
	busybox ip link set lo up
	busybox ip address add $address/32 dev lo
	# There is no kube-proxy. Instead, the API server listens at the address of its service.
	busybox ip address add $service/32 dev lo
}

# make_control_group creates the parent of the pods' control groups, in each hierarchy of cgroup
# v1 or in that of v2.
make_control_group() {
	local hierarchy wanted
	if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
		for wanted in cpu cpuset memory pids hugetlb; do # hugetlb only if the machine has it
			if ! grep -qw $wanted /sys/fs/cgroup/cgroup.controllers; then
				[ $wanted = hugetlb ] || cannot "there is no control group controller $wanted"
			elif ! grep -qw $wanted /sys/fs/cgroup/cgroup.subtree_control; then
				echo +$wanted >/sys/fs/cgroup/cgroup.subtree_control || cannot "the control group controller $wanted cannot be enabled"
			fi
		done
		mkdir "/sys/fs/cgroup/$CLUSTER_CGROUP" || cannot "control groups cannot be created"
		return
	fi
	for wanted in cpu cpuset memory pids devices; do
		[ -d /sys/fs/cgroup/$wanted ] || cannot "there is no control group controller $wanted"
	done
	for hierarchy in $(awk '$3 == "cgroup" { print $2 }' /proc/self/mounts); do
		mkdir "$hierarchy/$CLUSTER_CGROUP" || cannot "control groups cannot be created in $hierarchy"
	done
}

# start NAME PROGRAM ARGUMENT... starts a program of the node, with its log in
# $CLUSTER_LOGS/NAME.log.
start() {
	local name=$1
	shift
	"$@" >>"$CLUSTER_LOGS/$name.log" 2>&1 </dev/null &
	echo $! >"/run/$name.pid"
	disown # without a message from bash when a test kills it
}

# wait_for SECONDS NAME COMMAND... waits until the command succeeds, which shows that program
# NAME is ready.
wait_for() {
	local end=$((SECONDS + $1)) name=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		if ! kill -0 "$(cat "/run/$name.pid")" 2>/dev/null || ((SECONDS > end)); then
			tail -n 20 "$CLUSTER_LOGS/$name.log" >&2
			fail "$name does not run; see the end of its log above"
		fi
		sleep 0.1
	done
}

start_containerd() {
	local cni=/usr/lib/cni
	[ -z "$CLUSTER_RUNTIME" ] || cni=$CLUSTER_RUNTIME/usr/lib/cni
	for cni in "$cni" /usr/libexec/cni /opt/cni/bin; do [ ! -x "$cni/ptp" ] || break; done
	[ -x "$cni/ptp" ] || cannot "the CNI plugins ptp and host-local were not found"
	cat >$dir/cni/net.conflist <<-END
		{"cniVersion": "0.4.0", "name": "cluster", "plugins": [
		  {"type": "ptp", "ipam": {"type": "host-local", "dataDir": "$dir/ipam", "ranges": [[{"subnet": "10.88.0.0/24"}]],
		   "routes": [{"dst": "$service/32"}]}}]}
	END
	# restrict_oom_score_adj: without CAP_SYS_RESOURCE, runc must not lower the score.
	# disable_apparmor: a profile would stay loaded in the machine's kernel. The default path of
	# the plugin opt is below /opt.
	cat >$dir/containerd.toml <<-END
		version = 3
		root = "$dir/containerd"
		state = "/run/containerd"
		[grpc]
		  address = "$socket"
		[plugins."io.containerd.internal.v1.opt"]
		  path = "$dir/opt"
		[plugins."io.containerd.cri.v1.images"]
		  snapshotter = "native"
		  [plugins."io.containerd.cri.v1.images".pinned_images]
		    sandbox = "local/busybox:1"
		[plugins."io.containerd.cri.v1.runtime"]
		  restrict_oom_score_adj = true
		  disable_apparmor = true
		  [plugins."io.containerd.cri.v1.runtime".cni]
		    bin_dirs = ["$cni"]
		    conf_dir = "$dir/cni"
	END
	start containerd containerd --config $dir/containerd.toml
}

start_control_plane() {
	cat >$KUBECONFIG <<-END
		apiVersion: v1
		kind: Config
		clusters: [{name: c, cluster: {server: "https://127.0.0.1", insecure-skip-tls-verify: true}}]
		users: [{name: u, user: {token: test}}]
		contexts: [{name: x, context: {cluster: c, user: u}}]
		current-context: x
	END
	echo 'test,admin,admin,system:masters' >$dir/tokens.csv
	openssl genrsa -out $dir/sa.key 2048 2>/dev/null
	start etcd etcd --data-dir $dir/etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
		--listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
	start kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=443 --bind-address=0.0.0.0 \
		--advertise-address=$address --cert-dir=$dir/certs --service-account-key-file=$dir/sa.key --service-account-signing-key-file=$dir/sa.key \
		--service-account-issuer=https://kubernetes.default.svc --token-auth-file=$dir/tokens.csv --authorization-mode=RBAC \
		--service-cluster-ip-range=10.0.0.0/24 --allow-privileged=true --kubelet-preferred-address-types=InternalIP
	wait_for 120 kube-apiserver kubectl get --raw /readyz
	start kube-controller-manager kube-controller-manager --kubeconfig=$KUBECONFIG --service-account-private-key-file=$dir/sa.key \
		--root-ca-file=$dir/certs/apiserver.crt --leader-elect=false
	start kube-scheduler kube-scheduler --kubeconfig=$KUBECONFIG --leader-elect=false
}

# load_images loads the images to test, and one with busybox for the pause container and the
# workloads of the tests.
load_images() {
	local build=$dir/tmp/busybox layer name
	mkdir -p $build/root/bin
	cp "$(command -v busybox)" $build/root/bin/
	for link in $(busybox --list); do [ "$link" = busybox ] || ln -s busybox "$build/root/bin/$link"; done
	tar -C $build/root -cf $build/layer.tar .
	layer=$(sha256sum $build/layer.tar | cut -d' ' -f1)
	cat >$build/config.json <<-END
		{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]},
		 "config": {"Cmd": ["/bin/sleep", "1000000"], "Env": ["PATH=/bin"]}}
	END
	echo '[{"Config": "config.json", "RepoTags": ["local/busybox:1"], "Layers": ["layer.tar"]}]' >$build/manifest.json
	tar -C $build -cf $build/image.tar manifest.json config.json layer.tar
	wait_for 60 containerd ctr version
	import_image $build/image.tar
	for name in $CLUSTER_IMAGES; do
		import_image "$CLUSTER_TOP/bin/image/$name-amd64.docker.tar"
		ctr images tag docker.io/library/$name:devel docker.io/library/$name:second >/dev/null
	done
	rm -rf $build
}

# import_image FILE imports an image. Without errors ctr prints messages that mean nothing, such as
# "progress stream failed to recv".
import_image() {
	ctr images import "$1" >>"$CLUSTER_LOGS/ctr.log" 2>&1 || { cat "$CLUSTER_LOGS/ctr.log" >&2; fail "$1 cannot be imported"; }
}

write_kubelet_config() {
	cat >$dir/kubelet.yaml <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		address: 0.0.0.0
		authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
		authorization: {mode: AlwaysAllow}
		cgroupDriver: cgroupfs
		cgroupRoot: /$CLUSTER_CGROUP
		containerRuntimeEndpoint: unix://$socket
		enforceNodeAllocatable: []
		failCgroupV1: false
		failSwapOn: false
		imageGCHighThresholdPercent: 100 # images cannot be pulled again if the machine's disk fills up
		evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
		nodeStatusUpdateFrequency: 1s
		podLogsDir: $CLUSTER_LOGS/pods
		resolvConf: ""
		syncFrequency: 5s # also the time until a mounted ConfigMap is updated; the default is 1m
		volumePluginDir: $dir/volumeplugins
	END
}

export PATH=$CLUSTER_PROGRAMS:$CLUSTER_CONTAINERD:$PATH
if [ -n "$CLUSTER_RUNTIME" ]; then
	export PATH=$CLUSTER_RUNTIME/usr/bin:$CLUSTER_RUNTIME/usr/sbin:$CLUSTER_RUNTIME/bin:$PATH
	export LD_LIBRARY_PATH=$CLUSTER_RUNTIME/usr/lib/x86_64-linux-gnu
fi
export CONTAINERD_ADDRESS=$socket CONTAINERD_NAMESPACE=k8s.io
export CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1 # ctr warns on a machine with cgroup v1
isolate
make_control_group
start_containerd
start_control_plane
load_images
write_kubelet_config
start kubelet "$kubelet"
wait_for 60 kubelet kubectl wait --for=condition=Ready node/node1 --timeout=1s
wait_for 60 kube-controller-manager kubectl get serviceaccount default
step "$(kubectl get node node1 \
	-o jsonpath='Kubernetes {.status.nodeInfo.kubeletVersion} runs with {.status.nodeInfo.containerRuntimeVersion}')"

if [ "$1" = shell ]; then
	echo "cluster: shell on the node, leave it with exit. Try: kubectl get nodes; ctr images ls; ls $CLUSTER_LOGS"
	cd "$CLUSTER_TOP"
	PS1='node1# ' bash --norc -i || true
	exit 0
fi
# shellcheck disable=SC2086 # TEST_ARGS holds several words
"$CLUSTER_CACHE/cluster.test" -test.timeout 20m $TEST_ARGS
