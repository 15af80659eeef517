// SPDX-License-Identifier: Apache-2.0

package statusserver

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"qatplugin/internal/status"
	"qatplugin/internal/testenv"
	"qatplugin/kubeletapi/probe"
)

// serve runs the server that the program uses until the test ends. It returns a function that sends
// a request on a connection of its own.
func serve(t *testing.T, h http.Handler) (request func(path string) net.Conn) {
	t.Helper()
	l := testenv.NewPipeListener()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		probe.Server{
			Handler:   h,
			Serves:    "the status",
			Listen:    func(context.Context) (net.Listener, error) { return l, nil },
			KeepAlive: true,
		}.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return func(path string) net.Conn {
		client := l.Dial()
		t.Cleanup(func() { _ = client.Close() })
		if _, err := io.WriteString(client, "GET "+path+" HTTP/1.1\r\nHost: plugin\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return client
	}
}

// The server limits the time of other requests to seconds.
func TestStreamOutlivesTheLimitsOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		request := serve(t, New(config(s)))
		response, err := http.ReadResponse(bufio.NewReader(request("/events?types=event")), nil)
		if err != nil {
			t.Fatal(err)
		}
		received := make(chan struct{}, 10)
		go func() {
			defer close(received)
			for lines := bufio.NewScanner(response.Body); lines.Scan(); {
				if strings.Contains(lines.Text(), "an event") {
					received <- struct{}{}
				}
			}
		}()
		for n := range 10 {
			time.Sleep(time.Minute)
			s.journal.Append(status.Event{Text: "an event"})
			if _, open := <-received; !open {
				t.Fatalf("the stream has ended within %d minutes", n+1)
			}
		}
	})
}

// A connection costs memory and a file descriptor.
func TestConnectionThatIsNotReadIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		s.record = func(w io.Writer) error { _, err := io.WriteString(w, strings.Repeat("{}\n", 1<<20)); return err }
		request := serve(t, New(config(s)))
		for _, path := range []string{"/events", "/debug/recording", "/statusz"} {
			c, start := request(path), time.Now()
			time.Sleep(time.Minute)
			// A pipe whose other end is closed refuses a deadline.
			if err := c.SetReadDeadline(time.Now().Add(time.Second)); err == nil {
				t.Errorf("%s: the connection is not closed after %v", path, time.Since(start))
			}
		}
	})
}

func TestSlowHandlerKeepsItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		request := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
				ended <- errors.New("the context ended while the client waited")
			case <-time.After(time.Minute): // as a profile of a minute
				ended <- nil
			}
		}))
		request("/")
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
