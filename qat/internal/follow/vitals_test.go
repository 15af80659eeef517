package follow

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestALoopThatTakesPingsTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := NewVitals(NewHearing(t.TempDir(), Writer{}))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if v.CheckEventLoop(ctx) == nil {
			t.Error("a loop that does not run turns")
		}
		busy := make(chan struct{})
		go func() {
			<-busy // with work, for a while
			<-v.Pings()
		}()
		time.AfterFunc(time.Second, func() { close(busy) })
		ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := v.CheckEventLoop(ctx); err != nil {
			t.Errorf("a loop that was busy for a second: %v", err)
		}
	})
}

func TestTheFirstLookIsDoneWhenItWasDone(t *testing.T) {
	v := NewVitals(NewHearing(t.TempDir(), Writer{}))
	if v.CheckFirstLook(t.Context()) == nil {
		t.Error("it is done before it began")
	}
	v.Looked()
	if err := v.CheckFirstLook(t.Context()); err != nil {
		t.Error(err)
	}
}
