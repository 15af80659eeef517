#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/prometheus.sh
#
# Prints the directory of the programs prometheus and promtool: those of the machine, or else those
# of Debian's package, which is unpacked into a cache and not installed. The exit status is 77 if
# there are none.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/qatplugin/prometheus

if command -v promtool >/dev/null && prometheus=$(command -v prometheus); then
	dirname "$prometheus"
	exit
fi
if [ ! -e "$cache.done" ]; then
	command -v apt-get >/dev/null || { echo "promtool not found, and there is no apt-get" >&2; exit 77; }
	rm -rf "$cache" && mkdir -p "$cache/deb"
	cd "$cache/deb"
	{ apt-get -qq download prometheus || { apt-get -qq update && apt-get -qq download prometheus; }; } >"$cache/apt.log" 2>&1 ||
		{ echo "promtool not found, and apt-get cannot download prometheus: $(tail -n 1 "$cache/apt.log")" >&2; exit 77; }
	dpkg -x ./*.deb "$cache/package"
	rm -rf "$cache/deb"
	touch "$cache.done"
fi
echo "$cache/package/usr/bin"
