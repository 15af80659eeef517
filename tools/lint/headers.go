// SPDX-License-Identifier: Apache-2.0

package main

import "strings"

// kernelModule is the directory of the code that is loaded into the kernel, under the GPL-2.0.
const kernelModule = "test/vm/module/"

// checkHeader reports a Go or C file that does not start with the SPDX identifier of its license.
// In Go an empty line follows, which keeps the identifier out of the package comment.
func checkHeader(path, text string) []offense {
	license := "Apache-2.0"
	if strings.HasPrefix(path, kernelModule) {
		license = "GPL-2.0"
	}
	want := "// SPDX-License-Identifier: " + license + "\n"
	switch {
	case languageOf(path) == golang:
		want += "\n"
	case strings.HasSuffix(path, ".h"): // the kernel's rule for headers
		want = "/* SPDX-License-Identifier: " + license + " */\n"
	case languageOf(path) != c:
		return nil
	}
	if strings.HasPrefix(text, want) {
		return nil
	}
	return []offense{{path, 1, "must start with " + strings.TrimSpace(want)}}
}
