// Package follow is what the plugin's two modes share of listening to a host: a [Listener] that keeps a source of events open, the
// [Directories] that are followed by inotify, and the log of what became of the lists.
//
// A Listener runs on a goroutine of its caller; Directories are for one goroutine.
package follow
