#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/promtool.sh
#
# Prints the path of the program promtool: that of the machine, or else that of Debian's package
# prometheus, which is unpacked into a cache and not installed. The exit status is 77 if there is
# none.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/qatplugin/prometheus

cannot() {
	echo "promtool not found, and $*" >&2
	exit 77
}

if command -v promtool; then exit; fi
if [ ! -e "$cache.done" ]; then
	command -v apt-get >/dev/null || cannot "there is no apt-get"
	rm -rf "$cache" && mkdir -p "$cache/deb"
	cd "$cache/deb"
	{ apt-get -qq download prometheus || { apt-get -qq update && apt-get -qq download prometheus; }; } >"$cache/apt.log" 2>&1 ||
		cannot "apt-get cannot download prometheus: $(tail -n 1 "$cache/apt.log")"
	dpkg -x ./*.deb "$cache/package"
	rm -rf "$cache/deb"
	touch "$cache.done"
fi
echo "$cache/package/usr/bin/promtool"
