// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

const healthAddress = "127.0.0.1:8081" // in a network namespace of its own

// silentConnections opens connections that send nothing.
func silentConnections(t *testing.T, _ *rig) {
	for range 100 {
		c, err := net.Dial("tcp", healthAddress)
		must(t, err)
		defer c.Close()
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if got := get(path); got != "ok" {
			t.Errorf("GET %s while 100 connections are silent: %s", path, got)
		}
	}
}

// get returns the answer of /livez or /readyz.
func get(path string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+healthAddress+path, nil)
	if err != nil {
		return err.Error()
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
