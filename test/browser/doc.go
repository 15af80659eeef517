// SPDX-License-Identifier: Apache-2.0

// Package browser tests the status page in a headless Chromium.
//
// Some tests use the built qat_plugin on a look-alike host. The others use a server of the test
// that sends what the test wants to see on the page, such as hostile names.
//
// At the end of each test, the console of the page must have no error and no warning, and the page
// must have asked no other server. Chromium resolves no names and reaches nothing but 127.0.0.1.
//
// Run it with `make e2e-browser`. `make screenshots` runs TestScreenshots with the flag -images,
// which writes the images of docs/images.
package browser
