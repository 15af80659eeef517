// Package devtree holds what a device plugin knows of its devices, as immutable snapshots.
//
// A [Tree] maps resource names to devices. It never changes after it was built: [Tree.Edit] starts a [Builder] that makes the next
// one, and everything that did not change is shared with the Tree before it. So whether a resource, a device or a whole Tree is
// unchanged is one comparison of pointers, and a reader needs no lock.
//
// Who does not follow single changes builds a whole Tree each time that they looked, and [Tree.After] makes it the successor of the one
// before. [Diff] says what is different.
//
// A Tree breaks no rule of Kubernetes: [Builder.Put] and [Builder.Keep] return an error that names the rule, and leave the Builder as it
// was, so that one bad device can be left out. The Builder copies what is put: the caller may
// change its Device afterwards. One that was read from a Tree belongs to that Tree, and is for reading.
//
// A [Publisher] hands the newest Tree to any number of readers. Each [Subscription] follows one resource and always gets the
// newest state of it: states that came and went while the reader was busy are skipped, the last one never is. Publishing
// never waits for a reader.
//
// Trees may be read from any goroutine, a Publisher used from any; a Builder and a Subscription are for one each. The package starts no
// goroutine, and knows nothing of where devices come from, nor of who is told of them.
package devtree
