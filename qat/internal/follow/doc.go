// Package follow is what the plugin's two modes share of listening to a host: a [Listener] that keeps a source of events open, the
// [Directories] that are followed by inotify, the [Hearing] that proves that events arrive, and the log of what became of the lists; and the
// [Writer] through which all writes to sysfs go. [Vitals] are what health checks ask.
//
// A Listener runs on a goroutine of its caller; Directories are for one goroutine; Hearing and Vitals are for all.
package follow
