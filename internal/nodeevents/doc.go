// SPDX-License-Identifier: Apache-2.0

// Package nodeevents reports problems of the devices as Kubernetes Events of the Node.
//
// A [Reporter] compares snapshots of what the plugin knows. It reports a problem that lasts with
// a Warning Event, and its end with a Normal Event. While a problem lasts, and when it comes
// back, the Reporter counts that in the series of the Event, so that it does not expire. It looks
// at each change that the journal records, and at intervals for what the journal does not record.
//
// Everything is bounded: the number of problems, the rate of requests to the API server, the time
// of each request, and the intervals between attempts that fail. The Reporter has a goroutine of
// its own, and the rest of the program never waits for it. A problem that begins and ends while
// the API server cannot be reached is not reported.
//
// The package speaks HTTP itself, because client-go would multiply the size of the program.
package nodeevents
