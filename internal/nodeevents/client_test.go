// SPDX-License-Identifier: Apache-2.0

package nodeevents

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// An apiServer answers requests as a test says.
type apiServer struct {
	*httptest.Server
	dir      string // service account
	requests chan *http.Request
	bodies   chan string
	answer   func(http.ResponseWriter)
}

func newAPIServer(t *testing.T) (*apiServer, *Client) {
	s := &apiServer{
		dir:      t.TempDir(),
		requests: make(chan *http.Request, 10),
		bodies:   make(chan string, 10),
		answer:   func(w http.ResponseWriter) { w.WriteHeader(http.StatusCreated) },
	}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.bodies <- string(body)
		s.requests <- r
		s.answer(w)
	}))
	t.Cleanup(s.Close)
	s.write(t, "token", "one\n")
	s.write(t, "ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return s, newClient(s.URL, s.dir)
}

func (s *apiServer) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCreateSendsAnEvent(t *testing.T) {
	s, c := newAPIServer(t)
	e := newReporter(nil, nil, "worker-1", "qat.intel.com/device-plugin").complete(
		event{Type: "Warning", Action: "Binding", Reason: "Why", Note: "What"}, time.Unix(1_700_000_000, 123_456_789))
	if err := c.create(t.Context(), &e); err != nil {
		t.Fatal(err)
	}
	r := <-s.requests
	if r.Method != "POST" || r.URL.Path != "/apis/events.k8s.io/v1/namespaces/default/events" ||
		r.Header.Get("Authorization") != "Bearer one" || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("request %s %s with %v", r.Method, r.URL, r.Header)
	}
	var got any
	if err := json.Unmarshal([]byte(<-s.bodies), &got); err != nil {
		t.Fatal(err)
	}
	node := map[string]any{"apiVersion": "v1", "kind": "Node", "name": "worker-1", "uid": "worker-1"}
	want := map[string]any{
		"apiVersion":          "events.k8s.io/v1",
		"kind":                "Event",
		"metadata":            map[string]any{"name": "worker-1.17979cfe3d85cd15", "namespace": "default"},
		"eventTime":           "2023-11-14T22:13:20.123456Z",
		"reportingController": "qat.intel.com/device-plugin",
		"reportingInstance":   "worker-1",
		"action":              "Binding",
		"reason":              "Why",
		"regarding":           node,
		"note":                "What",
		"type":                "Warning",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestRepeatPatchesOnlyTheSeries(t *testing.T) {
	s, c := newAPIServer(t)
	at := microTime(time.Unix(0, 0))
	if err := c.repeat(t.Context(), "worker-1.17", series{Count: 3, LastObservedTime: at}); err != nil {
		t.Fatal(err)
	}
	r := <-s.requests
	if r.Method != "PATCH" || r.URL.Path != "/apis/events.k8s.io/v1/namespaces/default/events/worker-1.17" ||
		r.Header.Get("Content-Type") != "application/merge-patch+json" {
		t.Errorf("request %s %s with %v", r.Method, r.URL, r.Header)
	}
	if got, want := <-s.bodies, `{"series":{"count":3,"lastObservedTime":"1970-01-01T00:00:00.000000Z"}}`; got != want {
		t.Errorf("patch %s, want %s", got, want)
	}
}

func TestTokenAndCertificateAreReadForEachRequest(t *testing.T) {
	s, c := newAPIServer(t)
	for _, token := range []string{"one", "two"} {
		s.write(t, "token", token)
		if err := c.create(t.Context(), &event{}); err != nil {
			t.Fatal(err)
		}
		if got := (<-s.requests).Header.Get("Authorization"); got != "Bearer "+token {
			t.Errorf("authorization %q, want the token %q", got, token)
		}
	}
	s.write(t, "ca.crt", "x")
	err := c.create(t.Context(), &event{})
	if err == nil || !strings.Contains(err.Error(), "ca.crt: there is no certificate") {
		t.Errorf("error %v with a file that is no certificate", err)
	}
	for _, name := range []string{"ca.crt", "token"} {
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
		err := c.create(t.Context(), &event{})
		if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v without %s", err, name)
		}
	}
}

func TestAServerWithAnotherCertificateGetsNoToken(t *testing.T) {
	s, c := newAPIServer(t)
	// Another certificate: that of a server of httptest is always the same.
	s.write(t, "ca.crt", otherCertificate)
	if err := c.create(t.Context(), &event{}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("error %v, want one about the certificate", err)
	}
	if len(s.requests) > 0 {
		t.Error("the server got the request")
	}
}

func TestAnswersOfTheServer(t *testing.T) {
	s, c := newAPIServer(t)
	tests := map[string]struct {
		code    int
		body    string
		header  string // Retry-After
		err     string // part of the error; "" for none
		final   bool
		retryIn time.Duration
	}{
		"created":        {code: 201},
		"created before": {code: 409, body: `{"kind":"Status","message":"events \"x\" already exists"}`},
		"forbidden": {
			code: 403,
			body: `{"message":"events is forbidden"}`,
			err:  "the API server answers 403: events is forbidden",
		},
		"unauthorized": {code: 401, err: "401 Unauthorized"},
		"busy":         {code: 429, header: "7", err: "429", retryIn: 7 * time.Second},
		"broken":       {code: 500, body: "not JSON", err: "500 Internal Server Error"},
		"invalid": {
			code:  422,
			body:  `{"message":"note: Invalid value"}`,
			err:   "note: Invalid value",
			final: true,
		},
		"no such resource": {code: 404, err: "404", final: true},
		"elsewhere":        {code: 307, err: "307"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s.answer = func(w http.ResponseWriter) {
				if test.header != "" {
					w.Header().Set("Retry-After", test.header)
				}
				if test.code == 307 {
					w.Header().Set("Location", s.URL+"/elsewhere")
				}
				w.WriteHeader(test.code)
				_, _ = io.WriteString(w, test.body)
			}
			err := c.create(t.Context(), &event{})
			<-s.requests
			if len(s.requests) > 0 {
				t.Errorf("a second request: %s", (<-s.requests).URL)
			}
			if test.err == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			refused := (*refusal)(nil)
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), test.err) {
				t.Fatalf("error %v, want one with %q", err, test.err)
			}
			if final := refused.isFinal(); final != test.final || refused.retryIn != test.retryIn {
				t.Errorf("final: %v, wait %v; want %v, %v", final, refused.retryIn, test.final, test.retryIn)
			}
		})
	}
	s.answer = func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }
	if err := c.repeat(t.Context(), "x", series{}); err == nil {
		t.Error("no error for an Event that does not exist")
	}
}

func TestInClusterNamesWhatIsMissing(t *testing.T) {
	env := map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
	c, err := InCluster(func(name string) string { return env[name] })
	if err != nil || c.events != "https://[fd00::1]:443/apis/events.k8s.io/v1/namespaces/default/events" ||
		c.dir != "/var/run/secrets/kubernetes.io/serviceaccount" {
		t.Errorf("client %+v, %v", c, err)
	}
	delete(env, "KUBERNETES_SERVICE_PORT")
	if _, err := InCluster(func(name string) string { return env[name] }); err == nil {
		t.Error("no error outside of a pod")
	}
}

// otherCertificate is one that signs no server of these tests.
const otherCertificate = `-----BEGIN CERTIFICATE-----
MIIBdzCCAR2gAwIBAgIUP55Q5mRdO/+/9ciWpDHFUvS+kaswCgYIKoZIzj0EAwIw
EDEOMAwGA1UEAwwFb3RoZXIwIBcNMjYxMTI3MTI0NDAwWhgPMjEyNjExMDMxMjQ0
MDBaMBAxDjAMBgNVBAMMBW90aGVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
w/5RRmJYgBC7K+KkvMwyl4hMnjvrjD2y2i3j1rGBmKqZ1BKnFCUo7EmtxsCx1PJ5
YzqHsmx9kbbdtNHN7jWwaKNTMFEwHQYDVR0OBBYEFNGxS7NXkPGwygo/AYa9HO5D
3KskMB8GA1UdIwQYMBaAFNGxS7NXkPGwygo/AYa9HO5D3KskMA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAPwf4iYqWS5wxKYE0BZN/YqGXtM2chf2
SveaRDGOl/uuAiAcenh6icftvRfaLHDF3eNMlp5O4M/W57k+ZIsnG3cIzg==
-----END CERTIFICATE-----
`
