// SPDX-License-Identifier: Apache-2.0

package nodeevents

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// serviceAccountDir is where a pod finds its token and the certificate of the API server
// (k8s.io/client-go/rest, InClusterConfig).
const serviceAccountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// namespace of Events whose object is not in a namespace, such as those of a Node
// (k8s.io/kubernetes/pkg/apis/core/validation/events.go).
const namespace = "default"

const (
	requestTimeout = 10 * time.Second
	maxResponse    = 64 << 10 // bytes
)

// A Client writes Events to the API server of the cluster that the process runs in.
type Client struct {
	events string // URL of the Events
	dir    string // of the token and the certificate
}

// InCluster returns a Client for the API server that the kubelet names in the environment of a pod.
// The pod needs the token of a service account that may create and patch Events in the namespace
// default.
func InCluster(getenv func(string) string) (*Client, error) {
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("not in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
	}
	return newClient("https://"+net.JoinHostPort(host, port), serviceAccountDir), nil
}

func newClient(server, dir string) *Client {
	return &Client{events: server + "/apis/events.k8s.io/v1/namespaces/" + namespace + "/events", dir: dir}
}

// An event is an Event of the group events.k8s.io/v1, as far as this package uses it.
type event struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   metadata        `json:"metadata"`
	EventTime  microTime       `json:"eventTime"`
	Controller string          `json:"reportingController"`
	Instance   string          `json:"reportingInstance"`
	Action     string          `json:"action"`
	Reason     string          `json:"reason"`
	Regarding  objectReference `json:"regarding"`
	Note       string          `json:"note"`
	Type       string          `json:"type"`
}

type metadata struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

type objectReference struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
}

// A series counts repetitions of an Event.
type series struct {
	Count            int       `json:"count"`
	LastObservedTime microTime `json:"lastObservedTime"`
}

// A microTime is a time as metav1.MicroTime formats it.
type microTime time.Time

func (t microTime) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Time(t).UTC().Format("2006-01-02T15:04:05.000000Z07:00"))
}

// create creates an Event. If one of that name exists, an earlier attempt has created it.
func (c *Client) create(ctx context.Context, e *event) error {
	err := c.send(ctx, http.MethodPost, c.events, "application/json", e)
	if refused := (*refusal)(nil); errors.As(err, &refused) && refused.code == http.StatusConflict {
		return nil
	}
	return err
}

// repeat sets the series of an Event.
func (c *Client) repeat(ctx context.Context, name string, s series) error {
	patch := map[string]series{"series": s}
	return c.send(ctx, http.MethodPatch, c.events+"/"+url.PathEscape(name), "application/merge-patch+json", patch)
}

// A refusal is the answer of an API server that did not do what it was asked for.
type refusal struct {
	code    int
	text    string
	retryIn time.Duration // the server asks to wait so long; 0: it does not
}

func (r *refusal) Error() string { return fmt.Sprintf("the API server answers %d: %s", r.code, r.text) }

// isFinal reports whether the same request would be refused again: it is invalid, or its object
// does not exist. An answer about permissions is not final, because an administrator may grant
// them.
func (r *refusal) isFinal() bool {
	switch r.code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	}
	return r.code >= 400 && r.code < 500
}

// send sends one request. It reads the token and the certificate each time, because both are
// replaced while the process runs, and keeps no connection, because requests are rare.
func (c *Client) send(ctx context.Context, method, url, contentType string, body any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	token, err := os.ReadFile(filepath.Join(c.dir, "token"))
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(filepath.Join(c.dir, "ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("read %s: there is no certificate", filepath.Join(c.dir, "ca.crt"))
	}
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "qat_plugin")
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true,
	}
	client := http.Client{
		Transport: transport,
		// A redirect would give the token to another server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	if response.StatusCode >= 200 && response.StatusCode < 300 {
		return nil // whatever the body is
	}
	return refused(response, text, err)
}

// refused returns the error for an answer with a body, of which err says why it is incomplete.
func refused(response *http.Response, body []byte, err error) *refusal {
	r := &refusal{code: response.StatusCode, text: response.Status}
	var answer struct{ Message string } // a metav1.Status
	if err == nil && json.Unmarshal(body, &answer) == nil && answer.Message != "" {
		r.text = answer.Message
	}
	if n, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && n > 0 {
		r.retryIn = time.Duration(n) * time.Second
	}
	return r
}
