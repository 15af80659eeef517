// SPDX-License-Identifier: Apache-2.0

package apiclient_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"qatplugin/draapi/internal/apiclient"
	"qatplugin/internal/apitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClient(t *testing.T, config *rest.Config) *apiclient.Client {
	t.Helper()
	c, err := apiclient.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func slice(name, node string) *resourcev1.ResourceSlice {
	return &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: resourcev1.ResourceSliceSpec{
			Driver:   "color.example.com",
			Pool:     resourcev1.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: 1},
			NodeName: &node,
			Devices: []resourcev1.Device{{
				Name: "a",
				Taints: []resourcev1.DeviceTaint{{
					Key:    "color.example.com/pale",
					Effect: resourcev1.DeviceTaintEffectNoSchedule,
				}},
			}},
		},
	}
}

// exercise calls all methods.
func exercise(t *testing.T, server *apitest.Server, c *apiclient.Client) {
	ctx := t.Context()
	node := server.AddNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	if got, err := c.GetNode(ctx, "n1"); err != nil || got.UID != node.UID {
		t.Errorf("GetNode returns UID %q and error %v, want %q", got.UID, err, node.UID)
	}
	if _, err := c.GetNode(ctx, "n2"); !apierrors.IsNotFound(err) {
		t.Errorf("GetNode of a missing node returns %v", err)
	}
	claim := server.AddClaim(&resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}})
	if got, err := c.GetClaim(ctx, "default", "c"); err != nil || got.UID != claim.UID {
		t.Errorf("GetClaim returns UID %q and error %v, want %q", got.UID, err, claim.UID)
	}

	stored, err := c.CreateSlice(ctx, slice("s", "n1"))
	if err != nil || stored.UID == "" || stored.Spec.Devices[0].Taints[0].TimeAdded == nil {
		t.Fatalf("CreateSlice returns %+v and error %v", stored, err)
	}
	if _, err := c.CreateSlice(ctx, slice("s", "n1")); !apierrors.IsAlreadyExists(err) {
		t.Errorf("the second CreateSlice returns %v", err)
	}
	if _, err := c.CreateSlice(ctx, slice("other", "n2")); err != nil {
		t.Fatal(err)
	}
	own := metav1.ListOptions{FieldSelector: "spec.nodeName=n1,spec.driver=color.example.com"}
	list, err := c.ListSlices(ctx, own)
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "s" {
		t.Fatalf("ListSlices returns %+v and error %v", list, err)
	}

	own.ResourceVersion = list.ResourceVersion
	w, err := c.WatchSlices(ctx, own)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	expect := func(event watch.EventType, version string) {
		t.Helper()
		select {
		case e := <-w.ResultChan():
			s, _ := e.Object.(*resourcev1.ResourceSlice)
			if e.Type != event || s == nil || s.Name != "s" || version != "" && s.ResourceVersion != version {
				t.Errorf("the watch has event %s %+v, want %s of version %s", e.Type, e.Object, event, version)
			}
		case <-time.After(20 * time.Second): // only a failing test waits as long
			t.Fatalf("the watch has no event, want %s", event)
		}
	}
	stored.Spec.Pool.Generation = 2
	updated, err := c.UpdateSlice(ctx, stored)
	if err != nil || updated.Spec.Pool.Generation != 2 || updated.ResourceVersion == stored.ResourceVersion {
		t.Fatalf("UpdateSlice returns %+v and error %v", updated, err)
	}
	expect(watch.Modified, updated.ResourceVersion)
	if _, err := c.UpdateSlice(ctx, stored); !apierrors.IsConflict(err) {
		t.Errorf("UpdateSlice of an old version returns %v", err)
	}
	updated.Spec.Devices[0].Name = "Not A Label"
	_, err = c.UpdateSlice(ctx, updated)
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "devices[0].name") {
		t.Errorf("UpdateSlice of an invalid slice returns %v", err)
	}
	if err := c.DeleteSlice(ctx, "s", metav1.DeleteOptions{}); err != nil {
		t.Errorf("DeleteSlice returns %v", err)
	}
	expect(watch.Deleted, "")
	if err := c.DeleteSlice(ctx, "s", metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the second DeleteSlice returns %v", err)
	}
}

func TestClientInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := apitest.New()
		exercise(t, server, newClient(t, server.Config()))
	})
}

// TestClientSpeaksProtobuf sees what is sent over a real connection.
func TestClientSpeaksProtobuf(t *testing.T) {
	server := apitest.New()
	var bad []string
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const want = "application/vnd.kubernetes.protobuf"
		if !strings.HasPrefix(r.Header.Get("Accept"), want) ||
			r.ContentLength > 0 && r.Header.Get("Content-Type") != want {
			bad = append(bad, r.Method+" "+r.URL.Path)
		}
		server.ServeHTTP(w, r)
	}))
	exercise(t, server, newClient(t, &rest.Config{Host: h.URL}))
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	h.CloseClientConnections()
	h.Close()
	if len(bad) > 0 {
		t.Errorf("not in protobuf: %q", bad)
	}
}

func TestClientSendsEachRequestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := apitest.New()
		c := newClient(t, server.Config())
		faults := []*apitest.Fault{{Code: 429, RetryAfter: 3}, {Code: 503, RetryAfter: 3}, {Code: 500}, {Code: 0}}
		for _, fault := range faults {
			server.Fail(func(*apitest.Request) *apitest.Fault { return fault })
			before, start := len(server.Requests()), time.Now()
			_, err := c.CreateSlice(t.Context(), slice("s", "n1"))
			if err == nil {
				t.Fatalf("%+v: no error", fault)
			}
			if n := len(server.Requests()) - before; n != 1 || time.Since(start) > 0 {
				t.Errorf("%+v: %d requests in %v, want 1 without a pause", fault, n, time.Since(start))
			}
			if seconds, _ := apierrors.SuggestsClientDelay(err); seconds != fault.RetryAfter {
				t.Errorf("%+v: the error %v asks to wait %d s", fault, err, seconds)
			}
		}
	})
}

func TestRequestEndsWithItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := apitest.New()
		c := newClient(t, server.Config())
		release := make(chan struct{})
		defer close(release)
		server.Fail(func(*apitest.Request) *apitest.Fault { <-release; return nil })
		start := time.Now()
		if _, err := c.GetNode(t.Context(), "n1"); err == nil || time.Since(start) != 20*time.Second {
			t.Errorf("GetNode returns %v after %v", err, time.Since(start))
		}
	})
}

// TestClientHasNoRateLimit sends more requests than client-go allows by default, which is a burst
// of 10 and 5 a second (k8s.io/client-go/rest/config.go, DefaultQPS).
func TestClientHasNoRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := apitest.New()
		server.AddNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		config := server.Config()
		c, start := newClient(t, config), time.Now()
		for range 100 {
			if _, err := c.GetNode(t.Context(), "n1"); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("100 requests took %v, want no pauses", took)
		}
		if config.QPS != 0 || config.ContentType != "" {
			t.Errorf("New has modified the configuration: %+v", config)
		}
	})
}

// A connection's own port differs each time, and a text that differs is logged each time.
func TestErrorsOfTheNetworkHaveEqualTexts(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.(*net.TCPConn).SetLinger(0) // reset it
			conn.Close()
		}
	})
	defer serving.Wait()
	defer listener.Close()
	c := newClient(t, &rest.Config{Host: "http://" + listener.Addr().String()})
	_, first := c.GetNode(t.Context(), "worker")
	_, second := c.GetNode(t.Context(), "worker")
	if !errors.Is(first, syscall.ECONNRESET) || !errors.Is(second, syscall.ECONNRESET) {
		t.Errorf("errors %v and %v, want resets", first, second)
	} else if first.Error() != second.Error() {
		t.Errorf("texts differ: %v\n%v", first, second)
	}
}
