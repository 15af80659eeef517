// Package devtree holds what a device plugin knows of its devices, as immutable snapshots.
//
// A [Tree] maps resource names to devices. It never changes after it was built: [Tree.Edit] starts a [Builder] that makes the next
// one, and everything that did not change is shared with the Tree before it. So whether a resource, a device or a whole Tree is
// unchanged is one comparison of pointers, and a reader needs no lock.
//
// A [Publisher] hands the newest Tree to any number of readers. Each [Subscription] follows one resource and always gets the
// newest state of it: states that came and went while the reader was busy are skipped, the last one never is. Publishing
// never waits for a reader.
//
// The package knows nothing of where devices come from, nor of who is told of them. It starts no goroutine.
package devtree
