// SPDX-License-Identifier: Apache-2.0

package statuspage

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, method string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, "/", nil)
	if len(header) == 2 {
		r.Header.Set(header[0], header[1])
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w
}

// The policy must allow exactly the script and the style that the page has.
func TestPolicyAllowsTheInlineScriptAndStyleOnly(t *testing.T) {
	w := get(t, http.MethodGet)
	page, policy := w.Body.String(), w.Header().Get("Content-Security-Policy")
	for _, element := range []struct{ directive, pattern string }{
		{"script-src", `(?s)<script type="module">(.*?)</script>`},
		{"style-src", `(?s)<style>(.*?)</style>`},
	} {
		found := regexp.MustCompile(element.pattern).FindAllStringSubmatch(page, -1)
		if len(found) != 1 {
			t.Fatalf("%d elements match %s, want 1", len(found), element.pattern)
		}
		if want := element.directive + " " + hash(found[0][1]) + ";"; !strings.Contains(policy, want) {
			t.Errorf("no %q in the policy %q", want, policy)
		}
	}
	for _, directive := range []string{
		"default-src 'none'", "connect-src 'self'", "require-trusted-types-for 'script'",
	} {
		if !strings.Contains(policy, directive) {
			t.Errorf("no %q in the policy %q", directive, policy)
		}
	}
}

// Script and style are text in HTML that ends at the first end tag.
func TestFilesContainNoEndTag(t *testing.T) {
	for name, text := range map[string]string{"page.js": pageJS, "page.css": pageCSS} {
		if regexp.MustCompile(`(?i)</(script|style)|<!--`).MatchString(text) {
			t.Errorf("%s contains an end tag or a comment of HTML", name)
		}
	}
}

func TestPageLoadsNothingElse(t *testing.T) {
	page := get(t, http.MethodGet).Body.String()
	loads := regexp.MustCompile(`(?i)<link[^>]*href="([^"]*)"|src="([^"]*)"|@import|url\(`)
	for _, found := range loads.FindAllStringSubmatch(page, -1) {
		if !strings.HasPrefix(found[1], "data:") {
			t.Errorf("the page loads %s", found[0])
		}
	}
	// The names of the namespaces of SVG are no addresses that a browser loads.
	absolute := regexp.MustCompile(`https?://[^'" ]*|["'(]//[a-z][^'" ]*`)
	for _, found := range absolute.FindAllString(page, -1) {
		if found != "http://www.w3.org/2000/svg" {
			t.Errorf("the page refers to %s", found)
		}
	}
}

func TestMethodsAndCaching(t *testing.T) {
	if w := get(t, http.MethodHead); w.Code != http.StatusOK || w.Body.Len() != 0 {
		t.Errorf("HEAD: status %d, %d bytes", w.Code, w.Body.Len())
	}
	if w := get(t, http.MethodPost); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: status %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
	tag := get(t, http.MethodGet).Header().Get("Etag")
	if w := get(t, http.MethodGet, "If-None-Match", tag); w.Code != http.StatusNotModified {
		t.Errorf("If-None-Match %s: status %d, want 304", tag, w.Code)
	}
	if w := get(t, http.MethodGet, "If-None-Match", `"other"`); w.Code != http.StatusOK {
		t.Errorf(`If-None-Match "other": status %d, want 200`, w.Code)
	}
}
