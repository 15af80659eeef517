// SPDX-License-Identifier: Apache-2.0

// Package statusclient asks a running plugin for its status, over HTTP at its Unix socket or at an
// address.
//
// An error for which errors.Is(err, [ErrNotRunning]) is true means that nothing listens there. All
// other errors name what was asked and why it failed. Nothing is retried. A Client may be used by
// several goroutines.
package statusclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"qatplugin/internal/status"
)

// DefaultSocket is the path of the status socket of qat_plugin, and DRASocket that of
// qat_dra_driver.
const (
	DefaultSocket = "/run/qat_plugin/status.sock"
	DRASocket     = "/run/qat_dra_driver/status.sock"
)

// ErrNotRunning is the error of a Client if no plugin listens at its address.
var ErrNotRunning = errors.New("no plugin listens")

// A notRunningError is ErrNotRunning with its cause.
type notRunningError struct {
	address string
	cause   syscall.Errno
}

func (e *notRunningError) Error() string {
	return fmt.Sprintf("%v at %s: %v", ErrNotRunning, e.address, e.cause)
}

func (e *notRunningError) Is(target error) bool { return target == ErrNotRunning }

// maxAnswer is the length in bytes that no answer and no message of a stream may exceed. A Snapshot
// of 1024 VFs has 400 KiB.
const maxAnswer = 16 << 20

var errTooLong = fmt.Errorf("the answer is longer than %d MiB", maxAnswer>>20)

// A Client asks one plugin.
type Client struct {
	http *http.Client
	base string // URL without the path
	name string // of the address, for errors
}

// NewSocket returns a Client of the plugin that listens at a Unix socket.
func NewSocket(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return &Client{
		http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}},
		base: "http://plugin",
		name: path,
	}
}

// NewURL returns a Client of the plugin that listens at a URL such as http://localhost:8080. The
// address may lack the scheme.
func NewURL(address string) (*Client, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("%q: must be a URL such as http://localhost:8080: %w", address, err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
		return nil, fmt.Errorf("%q: must be a URL such as http://localhost:8080", address)
	}
	base := strings.TrimSuffix(u.String(), "/")
	return &Client{
		http: &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}},
		base: base,
		name: base,
	}, nil
}

// String returns the address of the plugin, for messages.
func (c *Client) String() string { return c.name }

// Snapshot returns what the plugin knows now.
func (c *Client) Snapshot(ctx context.Context) (*status.Snapshot, error) {
	s := &status.Snapshot{}
	return s, c.decode(ctx, "/statusz?format=json", s)
}

// Text returns the status as text for people.
func (c *Client) Text(ctx context.Context) ([]byte, error) {
	var text bytes.Buffer
	err := c.copy(ctx, "/statusz?format=text", &text, maxAnswer)
	return text.Bytes(), err
}

// Flags returns the values of the plugin's flags, by name.
func (c *Client) Flags(ctx context.Context) (map[string]string, error) {
	var answer struct {
		Flags map[string]string `json:"flags"`
	}
	err := c.decode(ctx, "/flagz?format=json", &answer)
	return answer.Flags, err
}

// Telemetry returns the counters of each PF.
func (c *Client) Telemetry(ctx context.Context) ([]status.Telemetry, error) {
	var list []status.Telemetry
	return list, c.decode(ctx, "/telemetry", &list)
}

// WriteRecording writes what the plugin's recorder holds to w, as lines of JSON.
func (c *Client) WriteRecording(ctx context.Context, w io.Writer) error {
	return c.copy(ctx, "/debug/recording", w, math.MaxInt64)
}

// Events returns the events in the plugin's journal, the oldest first, at most last of them.
func (c *Client) Events(ctx context.Context, last int) ([]status.Event, error) {
	var list []status.Event
	err := c.stream(ctx, url.Values{
		"types":  {status.MessageEvent},
		"follow": {"false"},
		"last":   {strconv.Itoa(last)},
	}, func(m *Message) error {
		var e status.Event
		if err := m.Decode(&e); err != nil {
			return err
		}
		if list = append(list, e); len(list) > last {
			list = slices.Delete(list, 0, 1)
		}
		return nil
	})
	if err == io.EOF {
		err = nil
	}
	return list, err
}

// A Message is one message of a stream.
type Message struct {
	Type string // one of the status.Message constants
	Data []byte // JSON; valid until the function that got the Message returns
}

// Decode decodes the data of the message.
func (m *Message) Decode(v any) error {
	if err := json.Unmarshal(m.Data, v); err != nil {
		return fmt.Errorf("decode a message of type %q: %w", m.Type, err)
	}
	return nil
}

// Follow calls handle with each message of the given types, until ctx ends or handle returns an
// error. The first events are those in the plugin's journal, the last ones if there are more than
// last. The error is never nil. It is io.EOF if the plugin has ended the stream.
func (c *Client) Follow(ctx context.Context, types []string, last int, handle func(*Message) error) error {
	return c.stream(ctx, url.Values{
		"types": {strings.Join(types, ",")},
		"last":  {strconv.Itoa(last)},
	}, handle)
}

func (c *Client) stream(ctx context.Context, query url.Values, handle func(*Message) error) error {
	const path = "/events"
	answer, err := c.get(ctx, path+"?"+query.Encode(), "text/event-stream")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var refused error // of handle
	err = readMessages(answer.Body, func(m *Message) error {
		refused = handle(m)
		return refused
	})
	if err == io.EOF || refused != nil {
		return err
	}
	return c.failed(ctx, path, err)
}

// readMessages reads server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation). It
// returns io.EOF at the end.
func readMessages(r io.Reader, handle func(*Message) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxAnswer)
	var m Message
	for lines.Scan() {
		line := lines.Bytes()
		if len(line) == 0 { // the end of a message
			if len(m.Data) > 0 {
				if err := handle(&m); err != nil {
					return err
				}
			}
			m.Type, m.Data = "", m.Data[:0]
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) { // a comment has the field ""
		case "event":
			m.Type = string(value)
		case "data":
			if len(m.Data) > 0 {
				m.Data = append(m.Data, '\n')
			}
			m.Data = append(m.Data, value...)
		}
		if len(m.Data) > maxAnswer {
			return errTooLong
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return errTooLong
	case err != nil:
		return err
	}
	return io.EOF
}

// decode asks for a path and decodes the answer, which is JSON.
func (c *Client) decode(ctx context.Context, path string, v any) error {
	answer, err := c.get(ctx, path, "application/json")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(&limited{answer.Body, maxAnswer}).Decode(v); err != nil {
		return c.failed(ctx, path, fmt.Errorf("read the answer: %w", err))
	}
	return nil
}

// copy asks for a path and writes the answer, of limit bytes at most, to w.
func (c *Client) copy(ctx context.Context, path string, w io.Writer, limit int64) error {
	answer, err := c.get(ctx, path, "")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(w, &limited{answer.Body, limit}); err != nil {
		return c.failed(ctx, path, err)
	}
	return nil
}

// limited reads left bytes, and then fails unless r ends there.
type limited struct {
	r    io.Reader
	left int64
}

// Read implements [io.Reader].
func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// get returns the answer to a GET request, whose status is 200.
func (c *Client) get(ctx context.Context, path, accept string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, c.failed(ctx, path, err)
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		return nil, c.failed(ctx, path, fmt.Errorf("%s: %s", answer.Status, line))
	}
	return answer, nil
}

// failed returns the error of a request.
func (c *Client) failed(ctx context.Context, path string, err error) error {
	path, _, _ = strings.Cut(path, "?")
	if outer := (*url.Error)(nil); errors.As(err, &outer) {
		err = outer.Err // without the URL, which is named anyway
	}
	cause := syscall.Errno(0)
	switch {
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case errors.As(err, &cause) && (cause == syscall.ENOENT || cause == syscall.ECONNREFUSED):
		return &notRunningError{c.name, cause}
	}
	return fmt.Errorf("ask the plugin at %s for %s: %w", c.name, path, err)
}
