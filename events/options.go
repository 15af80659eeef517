package events

// Option changes how ListenUevents listens.
type Option func(*ueventOptions)

type ueventOptions struct {
	size    int
	fd      int
	foreign bool // fd was given
	trust   Trust
}

// WithBufferSize asks for a receive buffer of that many bytes instead of [DefaultBufferSize].
func WithBufferSize(bytes int) Option {
	return func(o *ueventOptions) { o.size = bytes }
}

// WithSocket makes the listener read the socket fd instead of the kernel's uevents, and believe whom trust names; nil is
// [TrustKernel]. It is for tests and demonstrations: a socket pair (SOCK_DGRAM or SOCK_SEQPACKET), or a netlink socket in a
// network namespace of its own. The listener owns fd from the call on, also when ListenUevents fails.
func WithSocket(fd int, trust Trust) Option {
	return func(o *ueventOptions) {
		o.fd, o.foreign = fd, true
		if o.trust = trust; trust == nil {
			o.trust = TrustKernel
		}
	}
}
