// SPDX-License-Identifier: Apache-2.0

// Package statuspage serves the status page: one HTML page that shows what package internal/status
// describes, live.
//
// The page loads nothing but itself. Its script reads the server-sent events at "events", relative
// to the page, so that it also works behind a proxy that adds a prefix to the path. It writes
// nothing.
//
// The Content-Security-Policy of the response allows the page's own script and style by their
// hashes, connections to the server that sent the page, and nothing else. It also makes the browser
// refuse HTML that a script makes from text (Trusted Types), so names and reasons from the node
// cannot become markup.
package statuspage

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // for the files of the page
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The files of the page. index.html refers to the other two, so that it can also be opened from
// this directory.
var (
	//go:embed index.html
	indexHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
)

// The elements of index.html that the files replace.
const (
	linkElement   = `<link rel="stylesheet" href="page.css">`
	scriptElement = `<script type="module" src="page.js"></script>`
)

// Handler returns a handler that answers each GET or HEAD request with the page.
func Handler() http.Handler {
	page := []byte(strings.NewReplacer(
		linkElement, "<style>"+pageCSS+"</style>",
		scriptElement, `<script type="module">`+pageJS+"</script>",
	).Replace(indexHTML))
	policy := strings.Join([]string{
		"default-src 'none'",
		"script-src " + hash(pageJS),
		"style-src " + hash(pageCSS),
		"connect-src 'self'",
		"img-src data:", // the icon
		"base-uri 'none'",
		"form-action 'none'",
		"frame-ancestors 'none'",
		"require-trusted-types-for 'script'",
		"trusted-types 'none'",
	}, "; ")
	tag := fmt.Sprintf(`"%x"`, sha256.Sum256(page))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		header := w.Header()
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-cache") // the browser asks again, and gets 304 for this tag
		header.Set("Etag", tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(page))
	})
}

// hash returns the source expression of CSP that allows an inline element with this text.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
