// SPDX-License-Identifier: Apache-2.0

package apitest

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/watch"
	restwatch "k8s.io/client-go/rest/watch"
)

// maxBody is the limit of the API server, in bytes (k8s.io/apiserver/pkg/server/config.go,
// MaxRequestBodyBytes).
const maxBody = 3 << 20

// codecs encode and decode objects in the media type that a client asks for.
type codecs struct {
	factory serializer.CodecFactory
	options runtime.ParameterCodec
}

func newCodecs() codecs {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, resourcev1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // a kind is registered twice
		}
	}
	return codecs{factory: serializer.NewCodecFactory(s), options: runtime.NewParameterCodec(s)}
}

// mediaType returns the first type of a comma-separated list that the codecs know.
func (c codecs) mediaType(list string) runtime.SerializerInfo {
	known := c.factory.SupportedMediaTypes()
	for name := range strings.SplitSeq(list, ",") {
		name, _, _ = strings.Cut(name, ";")
		if info, ok := runtime.SerializerInfoForMediaType(known, strings.TrimSpace(name)); ok {
			return info
		}
	}
	return known[0] // JSON
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request, version, err := parse(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	body, err := s.codecs.body(request, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.mu.Lock()
	s.requests = append(s.requests, request)
	injected := s.fault
	s.mu.Unlock()
	var fault *Fault
	if injected != nil {
		fault = injected(request)
	}
	if fault != nil && !fault.Done {
		fault.write(w)
		return
	}
	if request.Verb == "watch" {
		s.watch(w, r)
		return
	}
	object, err := s.handle(request, r, body)
	switch {
	case fault != nil:
		fault.write(w)
	case err != nil:
		s.fail(w, r, err)
	default:
		code := http.StatusOK
		if request.Verb == "create" {
			code = http.StatusCreated
		}
		s.write(w, r, code, version, object)
	}
}

// write answers with the fault.
func (f *Fault) write(w http.ResponseWriter) {
	if f.Code == 0 {
		panic(http.ErrAbortHandler) // breaks the connection
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
	}
	http.Error(w, f.Message, f.Code)
}

// parse returns what the request asks for.
func parse(r *http.Request) (*Request, schema.GroupVersion, error) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	request, version := &Request{Time: time.Now()}, schema.GroupVersion{Version: "v1"}
	switch {
	case len(parts) > 2 && parts[0] == "api" && parts[1] == "v1":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis" && parts[1] == resourcev1.GroupName && parts[2] == "v1":
		parts, version = parts[3:], resourcev1.SchemeGroupVersion
	default:
		return nil, version, apierrors.NewNotFound(schema.GroupResource{}, r.URL.Path)
	}
	if len(parts) > 2 && parts[0] == "namespaces" {
		request.Namespace, parts = parts[1], parts[2:]
	}
	request.Resource = parts[0]
	if len(parts) > 1 {
		request.Name = parts[1]
	}
	switch {
	case r.Method == http.MethodGet && request.Name != "":
		request.Verb = "get"
	case r.Method == http.MethodGet && slices.Contains([]string{"true", "1"}, r.URL.Query().Get("watch")):
		request.Verb = "watch"
	case r.Method == http.MethodGet:
		request.Verb = "list"
	case r.Method == http.MethodPost:
		request.Verb = "create"
	case r.Method == http.MethodPut:
		request.Verb = "update"
	case r.Method == http.MethodDelete && request.Name != "":
		request.Verb = "delete"
	case r.Method == http.MethodDelete:
		request.Verb = "deletecollection"
	default:
		return nil, version, apierrors.NewMethodNotSupported(schema.GroupResource{Resource: request.Resource}, r.Method)
	}
	return request, version, nil
}

// body returns the object that the request creates or updates, or nil, and completes the request's
// Name.
func (c codecs) body(request *Request, r *http.Request) (*resourcev1.ResourceSlice, error) {
	if request.Verb != "create" && request.Verb != "update" {
		return nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if len(data) > maxBody {
		return nil, apierrors.NewRequestEntityTooLargeError("limit is 3145728")
	}
	body := &resourcev1.ResourceSlice{}
	codec := c.mediaType(r.Header.Get("Content-Type")).Serializer
	if _, _, err := codec.Decode(data, &slicesKind, body); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	request.Name = body.Name
	return body, nil
}

func (s *Server) handle(
	request *Request, r *http.Request, body *resourcev1.ResourceSlice,
) (runtime.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch request.Verb + " " + request.Resource {
	case "get nodes":
		if n := s.nodes[request.Name]; n != nil {
			return n.DeepCopy(), nil
		}
	case "get resourceclaims":
		if c := s.claims[request.Namespace+"/"+request.Name]; c != nil {
			return c.DeepCopy(), nil
		}
	case "get resourceslices":
		if slice := s.slices[request.Name]; slice != nil {
			return slice.DeepCopy(), nil
		}
	case "list resourceslices":
		opts, selector, err := s.codecs.listOptions(r)
		if err != nil {
			return nil, err
		}
		if v, err := strconv.ParseInt(opts.ResourceVersion, 10, 64); err == nil && v > s.version {
			return nil, apierrors.NewTimeoutError("Too large resource version", 1)
		}
		list := &resourcev1.ResourceSliceList{}
		list.ResourceVersion = strconv.FormatInt(s.version, 10)
		for _, name := range slices.Sorted(maps.Keys(s.slices)) {
			if matches(selector, s.slices[name]) {
				list.Items = append(list.Items, *s.slices[name].DeepCopy())
			}
		}
		return list, nil
	case "create resourceslices":
		return copied(s.createSlice(body))
	case "update resourceslices":
		return copied(s.updateSlice(body))
	case "deletecollection resourceslices":
		_, selector, err := s.codecs.listOptions(r)
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(s.slices)) {
			if !matches(selector, s.slices[name]) {
				continue
			}
			if _, err := s.deleteSlice(name); err != nil {
				return nil, err
			}
		}
		return &metav1.Status{Status: metav1.StatusSuccess}, nil
	case "delete resourceslices":
		return copied(s.deleteSlice(request.Name))
	default:
		return nil, apierrors.NewMethodNotSupported(schema.GroupResource{Resource: request.Resource}, request.Verb)
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: request.Resource}, request.Name)
}

func copied(slice *resourcev1.ResourceSlice, err error) (runtime.Object, error) {
	if err != nil {
		return nil, err
	}
	return slice.DeepCopy(), nil
}

func (c codecs) listOptions(r *http.Request) (*metav1.ListOptions, fields.Selector, error) {
	opts := &metav1.ListOptions{}
	if err := c.options.DecodeParameters(r.URL.Query(), resourcev1.SchemeGroupVersion, opts); err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	selector, err := fields.ParseSelector(opts.FieldSelector)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	known := []string{"metadata.name", resourcev1.ResourceSliceSelectorNodeName, resourcev1.ResourceSliceSelectorDriver}
	for _, r := range selector.Requirements() {
		if !slices.Contains(known, r.Field) {
			return nil, nil, apierrors.NewBadRequest("field label not supported: " + r.Field)
		}
	}
	return opts, selector, nil
}

func matches(selector fields.Selector, slice *resourcev1.ResourceSlice) bool {
	set := fields.Set{
		"metadata.name":                          slice.Name,
		resourcev1.ResourceSliceSelectorDriver:   slice.Spec.Driver,
		resourcev1.ResourceSliceSelectorNodeName: "",
	}
	if slice.Spec.NodeName != nil {
		set[resourcev1.ResourceSliceSelectorNodeName] = *slice.Spec.NodeName
	}
	return selector.Matches(set)
}

// watch serves a watch of ResourceSlices. As the API server does, it reports an expired resource
// version as an event (k8s.io/apiserver/pkg/storage/cacher/cacher.go, newErrWatcher).
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	opts, selector, err := s.codecs.listOptions(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ctx := r.Context()
	if opts.TimeoutSeconds != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*opts.TimeoutSeconds)*time.Second)
		defer cancel()
	}
	info := s.codecs.mediaType(r.Header.Get("Accept"))
	w.Header().Set("Content-Type", info.MediaType+";stream=watch")
	w.WriteHeader(http.StatusOK)
	flusher := w.(http.Flusher)
	flusher.Flush()
	encoder := restwatch.NewEncoder(
		streaming.NewEncoder(info.StreamSerializer.NewFrameWriter(w), info.StreamSerializer.Serializer),
		s.codecs.factory.EncoderForVersion(info.Serializer, resourcev1.SchemeGroupVersion))
	send := func(events []watch.Event) bool {
		for _, e := range events {
			if encoder.Encode(&e) != nil {
				return false
			}
		}
		flusher.Flush()
		return true
	}

	initial := opts.SendInitialEvents != nil && *opts.SendInitialEvents
	s.mu.Lock()
	ended := s.ended
	cursor, err := strconv.ParseInt(opts.ResourceVersion, 10, 64)
	var events []watch.Event
	switch {
	case err != nil || cursor == 0 || initial:
		for _, name := range slices.Sorted(maps.Keys(s.slices)) {
			if matches(selector, s.slices[name]) {
				events = append(events, watch.Event{Type: watch.Added, Object: s.slices[name].DeepCopy()})
			}
		}
		cursor = s.version
		if initial {
			events = append(events, bookmark(cursor, map[string]string{metav1.InitialEventsAnnotationKey: "true"}))
		}
	case cursor < s.oldest:
		gone := apierrors.NewResourceExpired("too old resource version").ErrStatus
		events = append(events, watch.Event{Type: watch.Error, Object: &gone})
	}
	s.mu.Unlock()
	if !send(events) || len(events) > 0 && events[0].Type == watch.Error {
		return
	}

	for {
		events = nil
		s.mu.Lock()
		changed := s.changed
		for _, c := range s.history {
			if c.version > cursor && matches(selector, c.slice) {
				events = append(events, watch.Event{Type: c.event, Object: c.slice.DeepCopy()})
			}
		}
		cursor = s.version
		s.mu.Unlock()
		if !send(events) {
			return
		}
		select {
		case <-changed:
		case <-ended:
			if opts.AllowWatchBookmarks {
				send([]watch.Event{bookmark(cursor, nil)})
			}
			return
		case <-ctx.Done():
			return
		}
	}
}

// bookmark returns an event that says that all changes up to the version were sent.
func bookmark(version int64, annotations map[string]string) watch.Event {
	slice := &resourcev1.ResourceSlice{}
	slice.ResourceVersion, slice.Annotations = strconv.FormatInt(version, 10), annotations
	return watch.Event{Type: watch.Bookmark, Object: slice}
}

// fail answers with an error.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := apierrors.NewInternalError(err).Status()
	if known := apierrors.APIStatus(nil); errors.As(err, &known) {
		status = known.Status()
	}
	s.write(w, r, int(status.Code), schema.GroupVersion{Version: "v1"}, &status)
}

// write answers with an object, in the media type that the client accepts.
func (s *Server) write(w http.ResponseWriter, r *http.Request, code int, v schema.GroupVersion, o runtime.Object) {
	info := s.codecs.mediaType(r.Header.Get("Accept"))
	w.Header().Set("Content-Type", info.MediaType)
	w.WriteHeader(code)
	_ = s.codecs.factory.EncoderForVersion(info.Serializer, v).Encode(o, w) // the client has gone
}

func equal(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }
