#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/vm/run.sh [shell]
#
# Runs the end-to-end tests in a virtual machine with a real Linux kernel; see README.md in this
# directory. With "shell" it starts the same machine with a shell instead of the tests. To run
# some of the tests:
#
#   TEST_ARGS='-test.v -test.run TestHotAdd' test/vm/run.sh
#
# The exit status is 0 if the tests passed, 1 if they failed, and 77 if they cannot run on this
# machine.
set -euo pipefail

# Programs and their Debian packages, besides the compiler that Debian built the kernel with.
declare -A PACKAGES=(
	[qemu-system-x86_64]=qemu-system-x86 [make]=make [cpio]=cpio [xz]=xz-utils [bc]=bc [flock]=util-linux [objcopy]=binutils
)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=${VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qatplugin/vm}
limit=${VM_LIMIT:-600} # seconds that a machine may run
started=$EPOCHREALTIME

step() { printf 'vm: %6.2fs %s\n' "$(bc <<<"$EPOCHREALTIME - $started")" "$*"; }

cannot() {
	echo "vm: cannot run here: $*" >&2
	exit 77
}

# need_programs installs missing packages if it can.
need_programs() {
	local program missing=() headers
	command -v go >/dev/null || cannot "go not found"
	[ "$(uname -m)" = x86_64 ] || cannot "the kernel is for x86_64, this machine is $(uname -m)"
	command -v apt-get >/dev/null || cannot "apt-get, which downloads the kernel from Debian's archive, was not found"
	if ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1; then
		[ "$(id -u)" = 0 ] || cannot "apt does not know linux-image-cloud-amd64: run apt-get update as root"
		apt-get -qq update || cannot "apt-get update failed"
	fi
	headers=$(depends linux-headers-cloud-amd64 '^linux-headers')
	program=$(depends "$headers" '^(linux-compiler-)?gcc-[0-9]' | grep -o 'gcc-[0-9]*') || cannot "cannot find out which compiler the kernel needs"
	PACKAGES[$program]=$program
	for program in "${!PACKAGES[@]}"; do
		command -v "$program" >/dev/null || missing+=("${PACKAGES[$program]}")
	done
	((${#missing[@]})) || return 0
	[ "$(id -u)" = 0 ] || cannot "packages not installed: ${missing[*]}"
	step "installing ${missing[*]}"
	DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >"$cache/apt.log" 2>&1 ||
		cannot "apt-get install ${missing[*]} failed; see $cache/apt.log"
}

# depends PACKAGE PATTERN prints the first dependency of PACKAGE that matches PATTERN.
depends() { apt-cache depends "$1" | awk -v p="$2" '/Depends:/ && $2 ~ p { print $2; exit }'; }

# find_kernel names the packages of Debian's newest cloud kernel and the directories that it is
# unpacked to.
find_kernel() {
	image=$(depends linux-image-cloud-amd64 '^linux-image')
	headers=$(depends linux-headers-cloud-amd64 '^linux-headers')
	kernel=$cache/${image:?the package of the kernel was not found}
	modules=$kernel/lib/modules/${image#linux-image-}/kernel
	build=$kernel/usr/src/${headers:?the package of the headers was not found}
}

# download_kernel downloads the packages to $cache/deb.
download_kernel() {
	rm -rf "$cache/deb"
	mkdir -p "$cache/deb"
	(cd "$cache/deb" && apt-get -qq download "$image" "$headers" "$(depends "$headers" common)" "$(depends "$headers" '^linux-kbuild')" 2>/dev/null)
}

# get_kernel unpacks the kernel and its headers into $kernel.
get_kernel() {
	local deb
	find_kernel
	[ ! -e "$kernel.done" ] || return 0
	if ! download_kernel; then
		# Package lists that are weeks old name versions that the archive no longer has.
		[ "$(id -u)" = 0 ] || cannot "apt-get download of $image and $headers failed: run apt-get update as root"
		step "updating the package lists"
		apt-get -qq update || cannot "apt-get update failed"
		find_kernel
		download_kernel || cannot "apt-get download of $image and $headers failed"
	fi
	rm -rf "$kernel"
	mkdir -p "$kernel"
	for deb in "$cache"/deb/*.deb; do dpkg -x "$deb" "$kernel"; done
	# The Makefile has the absolute path of the common headers.
	sed -i "s#/usr/src/#$kernel/usr/src/#" "$build/Makefile"
	rm -rf "$cache/deb"
	touch "$kernel.done"
	step "fetched $image"
}

build_module() {
	mkdir -p "$cache/module"
	cp -u "$here"/module/*.[ch] "$here/module/Kbuild" "$cache/module/"
	make -s -C "$build" M="$cache/module" CONFIG_DEBUG_INFO_BTF_MODULES= modules
	strip -g -o "$root/modules/qat_sim.ko" "$cache/module/qat_sim.ko"
}

# add_module NAME adds one of the kernel's own modules to the initrd and to the list of modules
# to load, after the modules that it depends on.
add_module() {
	local name=${1//-/_} file needs need
	[ ! -e "$root/modules/$name.ko" ] || return 0
	file=$(find "$modules" -name "${name//_/[-_]}.ko*" -print -quit)
	case $file in
	*.ko) cp "$file" "$root/modules/$name.ko" ;;
	*.ko.xz) xz -dc "$file" >"$root/modules/$name.ko" ;;
	*) cannot "the kernel has no module $name" ;;
	esac
	needs=$(objcopy -O binary --only-section=.modinfo "$root/modules/$name.ko" /dev/stdout | tr '\0' '\n' | sed -n 's/^depends=//p')
	for need in ${needs//,/ }; do add_module "$need"; done
	echo "$name" >>"$root/modules/order"
}

build_programs() {
	export CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -trimpath"
	(cd "$top" && go test -c -ldflags '-s -w' -o "$root/init" ./test/vm/e2e)
	(cd "$top" && go build -tags grpcnotrace -ldflags '-s -w' -o "$root/bin/qat_plugin" ./cmd/qat_plugin)
	mkdir -p "$root/pod" && cp "$top"/deployments/qat_plugin/base/*.yaml "$root/pod/"
	(cd "$top/test/kubelet" && go build -ldflags '-s -w' -o "$root/bin/devmanager" ./cmd/devmanager)
}

add_shell() {
	[ -x "$cache/busybox" ] || (
		cd "$cache" && rm -rf busybox.d && mkdir busybox.d && apt-get -qq download busybox-static 2>/dev/null &&
			dpkg -x busybox-static_*.deb busybox.d && rm busybox-static_*.deb && find busybox.d -path '*/bin/busybox' -exec cp {} busybox \; && rm -r busybox.d
	)
	cp "$cache/busybox" "$root/bin/"
}

mkdir -p "$cache"
need_programs
exec 9>"$cache/lock"
flock -n 9 || { step "waiting for another run to finish"; flock 9; }

root=$cache/initrd
rm -rf "$root"
mkdir -p "$root/modules" "$root/bin"
get_kernel
add_module vfio_iommu_type1
add_module vfio_pci
build_module
step "built the module"
build_programs
step "built the programs"
init_args=${TEST_ARGS:--test.v}
if [ "${1:-}" = shell ]; then
	add_shell
	init_args=shell
fi
(cd "$root" && find . | cpio -o -H newc --quiet) >"$cache/initrd.cpio"
rm -rf "$root"
step "created the initrd: $(du -h "$cache/initrd.cpio" | cut -f1)"

# "steady" has one CPU, on which an instruction takes 2 ns of virtual time and idle time is
# skipped. Measurements there do not depend on how busy the host is. "parallel" has two CPUs
# that run in real time.
declare -A MACHINES=(
	[steady]='-accel tcg,thread=single -icount shift=1,sleep=off -smp 1,sockets=1 -numa node,memdev=node0,cpus=0 -numa node,memdev=node1'
	[parallel]='-accel tcg,thread=multi -smp 2,sockets=2 -numa node,memdev=node0,cpus=0 -numa node,memdev=node1,cpus=1'
)
wanted=${VM_MACHINES:-steady parallel}
[ "${1:-}" != shell ] || wanted=parallel
# -cx16: QEMU 7.2 emulates cmpxchg16b incorrectly, which crashes the allocator of kernels from
# 6.5 on (kmem_cache_alloc). intel-iommu gives the functions in PCI domain 0 an IOMMU, including
# those of the module: the root port reserves their bus numbers, which puts them into QEMU's
# DMAR table. There are two NUMA nodes, so that a PF can be on the second one.
common=(
	-M q35 -cpu max,-cx16 -m 1536 -nodefaults -nic none -display none -no-reboot
	-object 'memory-backend-ram,id=node0,size=768M' -object 'memory-backend-ram,id=node1,size=768M'
	-device intel-iommu -device 'pcie-root-port,id=cover,chassis=9,bus-reserve=200'
	-kernel "$kernel"/boot/vmlinuz-* -initrd "$cache/initrd.cpio"
)
# no_timer_check: on a busy host the emulated timer is late, and the kernel would consider it
# broken.
kernel_args="console=ttyS0 quiet no_timer_check intel_iommu=on panic=-1 oops=panic"

status=0
for name in $wanted; do
	read -ra machine <<<"${MACHINES[$name]:?must be one of ${!MACHINES[*]}}"
	machine=("${common[@]}" "${machine[@]}" -append "$kernel_args VM_MACHINE=$name -- $init_args")
	if [ "${1:-}" = shell ]; then
		exec qemu-system-x86_64 "${machine[@]}" -serial mon:stdio
	fi
	log=$cache/$name.log
	step "machine $name, log $log"
	rc=0
	timeout -k 5 "$limit" qemu-system-x86_64 "${machine[@]}" -serial stdio </dev/null 2>&1 | sed -u 's|\r||g' | tee "$log" || rc=$?
	if ! grep -q '^@@EXIT 0$' "$log"; then
		((rc != 124 && rc != 137)) || echo "vm: stopped the machine $name after $limit s (VM_LIMIT)" >&2
		echo "vm: FAILED on the machine $name; see its serial log $log" >&2
		status=1
	fi
done
step "done"
exit $status
