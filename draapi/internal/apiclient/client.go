// SPDX-License-Identifier: Apache-2.0

// Package apiclient talks to the Kubernetes API server about the few kinds of objects that a DRA
// driver needs: its own ResourceSlices, ResourceClaims, and its Node.
//
// A [Client] is client-go's REST client with a scheme of only these kinds and with protobuf. The
// generated clients (k8s.io/client-go/kubernetes) know all kinds of Kubernetes, which costs 11 MB
// in the program and 9 MB of memory.
//
// Each method sends one request and returns an error that k8s.io/apimachinery/pkg/api/errors
// understands. Nothing is sent again and nothing is held back: the client has no rate limit, and
// the caller decides when to try again. A request takes as long as its context and, except for a
// watch, 20 s allow.
package apiclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// requestTimeout limits each request except a watch. An API server with too many requests queues
// one for up to 15 s before it answers 429 (k8s.io/apiserver/pkg/server/config.go,
// WithPriorityAndFairness, with a quarter of RequestTimeout). A shorter timeout would repeat
// requests whose turn is near. A connection to a server that has vanished without closing it is
// only detected after 45 s (k8s.io/apimachinery/pkg/util/net/http.go, readIdleTimeoutSeconds and
// pingTimeoutSeconds).
const requestTimeout = 20 * time.Second

const slicesResource = "resourceslices"

// A Client sends requests to the API server. Any goroutine may use it.
type Client struct {
	core, resource rest.Interface // of the API groups "" and resource.k8s.io
	options        runtime.ParameterCodec
}

// New returns a Client for the API server of config, which it does not modify. It sends nothing.
func New(config *rest.Config) (*Client, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // no rate limit
	config.RateLimiter = nil
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON

	s := runtime.NewScheme()
	s.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Node{})
	s.AddKnownTypes(resourcev1.SchemeGroupVersion,
		&resourcev1.ResourceClaim{}, &resourcev1.ResourceSlice{}, &resourcev1.ResourceSliceList{})
	for _, version := range []schema.GroupVersion{{Version: "v1"}, resourcev1.SchemeGroupVersion} {
		metav1.AddToGroupVersion(s, version) // options, watch events and errors
	}
	config.NegotiatedSerializer = serializer.NewCodecFactory(s).WithoutConversion()

	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("configure the client of the API server: %w", err)
	}
	client := func(path string, version schema.GroupVersion) (rest.Interface, error) {
		c := rest.CopyConfig(config)
		c.APIPath, c.GroupVersion = path, &version
		return rest.RESTClientForConfigAndClient(c, transport)
	}
	core, err := client("/api", corev1.SchemeGroupVersion)
	if err != nil {
		return nil, fmt.Errorf("configure the client of the API server: %w", err)
	}
	resource, err := client("/apis", resourcev1.SchemeGroupVersion)
	if err != nil {
		return nil, fmt.Errorf("configure the client of the API server: %w", err)
	}
	return &Client{core: core, resource: resource, options: runtime.NewParameterCodec(s)}, nil
}

// GetNode returns the Node with that name.
func (c *Client) GetNode(ctx context.Context, name string) (*corev1.Node, error) {
	node := &corev1.Node{}
	return node, do(ctx, c.core.Get().Resource("nodes").Name(name), node)
}

// GetClaim returns the ResourceClaim with that name.
func (c *Client) GetClaim(ctx context.Context, namespace, name string) (*resourcev1.ResourceClaim, error) {
	claim := &resourcev1.ResourceClaim{}
	return claim, do(ctx, c.resource.Get().Namespace(namespace).Resource("resourceclaims").Name(name), claim)
}

// ListSlices returns the ResourceSlices that the options select.
func (c *Client) ListSlices(ctx context.Context, opts metav1.ListOptions) (*resourcev1.ResourceSliceList, error) {
	list := &resourcev1.ResourceSliceList{}
	return list, do(ctx, c.resource.Get().Resource(slicesResource).VersionedParams(&opts, c.options), list)
}

// WatchSlices watches the ResourceSlices that the options select, until ctx ends or the caller
// stops the watch.
func (c *Client) WatchSlices(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	opts.Watch = true
	request := c.resource.Get().Resource(slicesResource).VersionedParams(&opts, c.options).MaxRetries(0)
	w, err := request.Watch(ctx)
	return w, withoutSource(err)
}

// CreateSlice creates the ResourceSlice and returns it as the API server has stored it.
func (c *Client) CreateSlice(ctx context.Context, s *resourcev1.ResourceSlice) (*resourcev1.ResourceSlice, error) {
	stored := &resourcev1.ResourceSlice{}
	return stored, do(ctx, c.resource.Post().Resource(slicesResource).Body(s), stored)
}

// UpdateSlice replaces the ResourceSlice of that name and returns it as the API server has stored
// it. The update fails with a conflict if s has a resource version that is not the newest.
func (c *Client) UpdateSlice(ctx context.Context, s *resourcev1.ResourceSlice) (*resourcev1.ResourceSlice, error) {
	stored := &resourcev1.ResourceSlice{}
	return stored, do(ctx, c.resource.Put().Resource(slicesResource).Name(s.Name).Body(s), stored)
}

// DeleteSlice deletes the ResourceSlice of that name.
func (c *Client) DeleteSlice(ctx context.Context, name string, opts metav1.DeleteOptions) error {
	return do(ctx, c.resource.Delete().Resource(slicesResource).Name(name).Body(&opts), nil)
}

// do sends the request once and decodes the answer into result unless it is nil.
func do(ctx context.Context, request *rest.Request, result runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer := request.MaxRetries(0).Do(ctx)
	if result == nil {
		return withoutSource(answer.Error())
	}
	return withoutSource(answer.Into(result))
}

// withoutSource returns an error of the network without the port of the client. So its text is the
// same for each connection, and is logged once.
func withoutSource(err error) error {
	var request *url.Error
	var network *net.OpError
	if !errors.As(err, &request) || !errors.As(request.Err, &network) || network.Source == nil {
		return err
	}
	without := *network
	without.Source = nil
	return &url.Error{Op: request.Op, URL: request.URL, Err: &without}
}
