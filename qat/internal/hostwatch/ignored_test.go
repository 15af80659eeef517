// SPDX-License-Identifier: Apache-2.0

package hostwatch

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"qatplugin/events"
)

func TestFirstIgnoredUeventIsLoggedAtOnceAndOthersAreCounted(t *testing.T) {
	for name, tt := range map[string]struct {
		message            events.Ignored
		first, count, text string
	}{
		"rejected": {
			message: events.Ignored{Port: 4711, PID: 77, UID: 1000},
			first:   `"Ignored a uevent that the kernel did not send" port=4711 pid=77 uid=1000 total=1`,
			count:   `"Ignored uevents that the kernel did not send" count=4 port=4711 pid=77 uid=1000 total=5`,
			text:    "did not send",
		},
		"malformed": {
			message: events.Ignored{Malformed: true},
			first:   `"Ignored a malformed uevent" port=0 pid=0 uid=0 total=1`,
			count:   `"Ignored malformed uevents" count=4 port=0 pid=0 uid=0 total=5`,
			text:    "malformed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			lines := captureLog(t)
			config, mode := Config{AuditInterval: -1}, completeMode()
			turns := 0
			mode.during = func() { turns++ }
			runLoop(t, fakeEnvironment{ordinary: true}, config, mode, func(t *testing.T, l *loopTest) {
				want := func(when string, want ...string) {
					t.Helper()
					synctest.Wait()
					if got := lines(tt.text); !slices.Equal(got, want) {
						t.Errorf("%s: logged %q, want %q", when, got, want)
					}
				}
				ignore := func(n int) {
					for range n {
						l.sink.(events.IgnoredSink).Ignored(tt.message)
					}
				}
				want("before")
				ignore(1)
				want("at once", tt.first)
				ignore(4)
				want("in the same minute")
				time.Sleep(time.Minute)
				want("after a minute", tt.count)
				time.Sleep(time.Hour)
				want("in an hour without any")
				if turns != 4 { // at the start, for each line, and to schedule the second line
					t.Errorf("the loop turned %d times, want 4", turns)
				}
				ignore(1)
				synctest.Wait()
				if got := lines(tt.text); len(got) != 1 {
					t.Errorf("after an hour: logged %q, want one line", got)
				}
			})
		})
	}
}
