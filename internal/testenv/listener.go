// SPDX-License-Identifier: Apache-2.0

package testenv

import "net"

// A PipeListener accepts connections in memory, so that tests can run in a testing/synctest bubble.
type PipeListener struct {
	accept chan net.Conn
	closed chan struct{}
}

// NewPipeListener returns a PipeListener.
func NewPipeListener() *PipeListener {
	return &PipeListener{accept: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial returns the client's end of a new connection, when the server has accepted the other one.
func (l *PipeListener) Dial() net.Conn {
	client, server := net.Pipe()
	l.accept <- server
	return client
}

// Accept implements [net.Listener].
func (l *PipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]. It may be called once.
func (l *PipeListener) Close() error { close(l.closed); return nil }

// Addr implements [net.Listener].
func (l *PipeListener) Addr() net.Addr { return &net.UnixAddr{} }
