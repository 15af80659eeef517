// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"qatplugin/devtree"
	"qatplugin/draapi/internal/inventory"
)

func TestPreparedClaimIsAnsweredFromItsFile(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir, "1", "2")
	ref := s.allocate("a", "uid-a", "2", "1")
	want := names(s.mustPrepare(ref))
	wantRuntimeDevices(t, dir, "color.example.com/claim=uid-a-1", "color.example.com/claim=uid-a-2")
	if gets, prepares := s.count(); gets != 1 || prepares != 1 {
		t.Errorf("%d requests and %d calls of Prepare", gets, prepares)
	}
	next := newStore(t, dir) // another process, without devices
	next.objects = s.objects
	for _, store := range []*testStore{s, next} {
		if diff := cmp.Diff(want, names(store.mustPrepare(ref))); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
		if _, prepares := store.count(); prepares != 0 {
			t.Errorf("%d calls of Prepare", prepares)
		}
	}
	held := next.Held()
	if diff := cmp.Diff(map[string]*devtree.Device{"1": {ID: "1"}, "2": {ID: "2"}}, held); diff != "" {
		t.Errorf("held (-want +got):\n%s", diff)
	}
}

// The API server fails for ten seconds. The call succeeds within its 45 s.
func TestFailureOfTheAPIServerIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, t.TempDir(), "1")
		ref := s.allocate("a", "uid-a", "1")
		start := time.Now()
		s.fail(func() error {
			if time.Since(start) < 10*time.Second {
				return apierrors.NewInternalError(errors.New("etcd has no leader"))
			}
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
		defer cancel()
		if _, err := s.Prepare(ctx, ref); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 10*time.Second || took > 10*time.Second+retryMax {
			t.Errorf("prepared after %v", took)
		}
		if gets, _ := s.count(); gets > 20 {
			t.Errorf("%d requests in 10 s", gets)
		}
	})
}

// The kubelet shows the error in the pod's events if it arrives in time.
func TestErrorOfTheAPIServerIsAnsweredBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, t.TempDir(), "1")
		ref := s.allocate("a", "uid-a", "1")
		s.fail(func() error { return syscall.ECONNREFUSED })
		for _, limit := range []time.Duration{0, 5 * time.Second} {
			start, ctx := time.Now(), t.Context()
			want := callTimeout - answerTime
			if limit > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, limit)
				defer cancel()
				want = limit - answerTime
			}
			_, err := s.Prepare(ctx, ref)
			if !errors.Is(err, syscall.ECONNREFUSED) || !strings.HasPrefix(err.Error(), "get the claim: ") {
				t.Errorf("error %v", err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("answered after %v, want %v", took, want)
			}
		}
	})
}

func TestFinalAnswerOfTheAPIServerIsNotRetried(t *testing.T) {
	claims := schema.GroupResource{Resource: "resourceclaims"}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{
			apierrors.NewForbidden(claims, "a", errors.New("no")),
			"allow the driver's service account to get resourceclaims",
		},
		{apierrors.NewNotFound(claims, "a"), `"a" not found`},
		{apierrors.NewBadRequest("bad"), "bad"},
	} {
		s := newStore(t, t.TempDir(), "1")
		ref := s.allocate("a", "uid-a", "1")
		s.fail(func() error { return tt.err })
		if _, err := s.Prepare(t.Context(), ref); err == nil || !strings.HasSuffix(err.Error(), tt.want) {
			t.Errorf("error %v, want …%s", err, tt.want)
		}
		if gets, _ := s.count(); gets != 1 {
			t.Errorf("%v: %d requests", tt.err, gets)
		}
	}
}

func TestRetryAfterIsRespected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, t.TempDir(), "1")
		ref := s.allocate("a", "uid-a", "1")
		first := true
		s.fail(func() error {
			if first {
				first = false
				return apierrors.NewTooManyRequests("busy", 7)
			}
			return nil
		})
		start := time.Now()
		s.mustPrepare(ref)
		if took := time.Since(start); took != 7*time.Second {
			t.Errorf("prepared after %v, want 7s", took)
		}
	})
}

// The containers of a prepared claim may restart while the API server is away.
func TestPreparedClaimDoesNotNeedTheAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, t.TempDir(), "1")
		ref := s.allocate("a", "uid-a", "1")
		want := names(s.mustPrepare(ref))
		s.fail(func() error { return syscall.ECONNREFUSED })
		start := time.Now()
		if diff := cmp.Diff(want, names(s.mustPrepare(ref))); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("answered after %v", took)
		}
		s.GetClaim = func(ctx context.Context, _, _ string) (*resourcev1.ResourceClaim, error) {
			<-ctx.Done() // the API server does not answer
			return nil, ctx.Err()
		}
		s.mustPrepare(ref)
		if took := time.Since(start); took != preparedTimeout {
			t.Errorf("answered after %v, want %v", took, preparedTimeout)
		}
	})
}

// A claim that was deallocated while the node was down, and allocated again, has the same UID.
// Answering from the old file would give its pod the device of another claim.
func TestClaimWithAnotherAllocationIsPreparedAgain(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir, "1", "2")
	ref := s.allocate("a", "uid-a", "1")
	s.mustPrepare(ref)
	s.allocate("a", "uid-a", "2")
	if diff := cmp.Diff([]string{"color.example.com/claim=uid-a-2"}, names(s.mustPrepare(ref))); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	wantRuntimeDevices(t, dir, "color.example.com/claim=uid-a-2")
	s.mustPrepare(s.allocate("b", "uid-b", "1"))
}

func TestOneOfTwoClaimsGetsADevice(t *testing.T) {
	dir := t.TempDir()
	stores := []*testStore{newStore(t, dir, "1"), newStore(t, dir, "1")} // of two processes
	for round := range 20 {
		var running sync.WaitGroup
		errs := make([]error, 4)
		refs := make([]Ref, len(errs))
		for i := range errs {
			s, uid := stores[i%2], string(rune('a'+i))
			refs[i] = s.allocate(uid, uid, "1")
			running.Go(func() { _, errs[i] = s.Prepare(t.Context(), refs[i]) })
		}
		running.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner < 0:
				winner = i
			case err == nil:
				t.Fatalf("round %d: claims %v and %v have the device", round, refs[winner], refs[i])
			}
		}
		for i, err := range errs {
			if want := "is held by claim " + refs[winner].String(); i != winner && !strings.Contains(text(err), want) {
				t.Fatalf("round %d: error %v, want the name of claim %v", round, err, refs[winner])
			}
		}
		stores[(winner+1)%2].mustUnprepare(refs[winner])
		wantRuntimeDevices(t, dir)
	}
}

func TestFilesOfOtherProcessesAreSeen(t *testing.T) {
	dir := t.TempDir()
	one, other := newStore(t, dir, "1"), newStore(t, dir, "1")
	if _, err := other.Holders(); !errors.Is(err, errNotLoaded) {
		t.Errorf("holders before the files were read: %v", err)
	}
	ref := one.allocate("a", "uid-a", "1")
	one.mustPrepare(ref)
	changes := other.changes
	if err := other.Load(); err != nil {
		t.Fatal(err)
	}
	holders, err := other.Holders()
	if diff := cmp.Diff(map[string]string{"1": "default/a"}, holders); diff != "" || err != nil {
		t.Errorf("holders (-want +got):\n%s%v", diff, err)
	}
	if other.changes != changes+1 {
		t.Errorf("%d calls of Changed, want 1", other.changes-changes)
	}
	if err := other.Load(); err != nil || other.changes != changes+1 {
		t.Errorf("%d calls of Changed without a change: %v", other.changes-changes-1, err)
	}
	one.mustUnprepare(ref)
	if err := other.Load(); err != nil || len(other.List()) > 0 {
		t.Errorf("claims after unprepare: %v, %v", other.List(), err)
	}
}

// The new file has the size of the old one.
func TestFileThatAnotherProcessReplacesIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	one, other := newStore(t, dir, "1", "2"), newStore(t, dir, "1", "2")
	ref := one.allocate("a", "uid-a", "1")
	one.mustPrepare(ref)
	other.allocate("a", "uid-a", "2")
	other.mustPrepare(ref)
	if err := one.Load(); err != nil {
		t.Fatal(err)
	}
	holders, err := one.Holders()
	if diff := cmp.Diff(map[string]string{"2": "default/a"}, holders); diff != "" || err != nil {
		t.Errorf("holders (-want +got):\n%s%v", diff, err)
	}
}

// A claim with admin access can have a device for several of its requests. Each has edits of its
// own.
func TestDeviceOfSeveralRequestsHasSeveralNames(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir, "1")
	ref := s.allocate("a", "uid-a", "1", "1", "1")
	for i := range s.objects["default/a"].Status.Allocation.Devices.Results {
		s.objects["default/a"].Status.Allocation.Devices.Results[i].AdminAccess = new(true)
	}
	want := []string{
		"color.example.com/claim=uid-a-1", "color.example.com/claim=uid-a-1.2", "color.example.com/claim=uid-a-1.3",
	}
	if diff := cmp.Diff(want, names(s.mustPrepare(ref))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantRuntimeDevices(t, dir, want...)
}

func TestBrokenFileIsReportedAndLeftAlone(t *testing.T) {
	for name, text := range map[string]string{
		"empty":           "",
		"not JSON":        "{",
		"no annotation":   `{"cdiVersion":"0.6.0","kind":"color.example.com/claim","devices":[]}`,
		"another claim's": `{"annotations":{"color.example.com/claim":"{\"uid\":\"b\",\"devices\":[{}]}"}}`,
		"no devices":      `{"annotations":{"color.example.com/claim":"{\"uid\":\"uid-a\"}"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, driver+"-claim-uid-a.json")
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			s := newStore(t, dir, "1", "2")
			for range 3 {
				if err := s.Load(); err != nil {
					t.Fatal(err)
				}
			}
			if n := s.logged("Cannot read the file of a prepared claim"); n != 1 {
				t.Errorf("%d lines in the log, want 1: %q", n, s.log)
			}
			s.mustPrepare(s.allocate("b", "uid-b", "2"))
			if got, err := os.ReadFile(path); err != nil || string(got) != text {
				t.Errorf("the file has %q: %v", got, err)
			}
			ref := s.allocate("a", "uid-a", "1")
			s.mustPrepare(ref)
			wantRuntimeDevices(t, dir, "color.example.com/claim=uid-a-1", "color.example.com/claim=uid-b-2")
			s.mustUnprepare(ref)
			wantRuntimeDevices(t, dir, "color.example.com/claim=uid-b-2")
		})
	}
}

// A file of another driver or of another kind is none of ours, whatever it contains.
func TestOtherFilesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	others := []string{
		"other.example.com-claim-uid-a.json",
		"color.example.com-vf_device-plugin.json",
		"color.example.com-claim-.json",
		"color.example.com-claim-a b.json",
		"color.example.com-claim-uid-a.json.bak",
		".color.example.com-claim-a.json.1.tmp",
	}
	for _, name := range others {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, driver+"-claim-dir.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, dir, "1")
	s.mustUnprepare(s.allocate("a", "uid-a", "1"))
	if len(s.List()) > 0 || len(s.log) > 0 {
		t.Errorf("claims %v, log %q", s.List(), s.log)
	}
	s.mustPrepare(s.allocate("z", "z", "1")) // its file is after the others
	next := newStore(t, dir)
	if err := next.Load(); err != nil || len(next.List()) != 1 {
		t.Errorf("another process finds the claims %v: %v", next.List(), err)
	}
	for _, name := range others {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestUIDThatIsNoFileNameIsRefused(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(filepath.Dir(dir), "victim.json")
	if err := os.WriteFile(victim, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, dir, "1")
	for _, uid := range []string{"", "../victim", "x/../../victim", ".", "a b"} {
		ref := s.allocate("a", uid, "1")
		if _, err := s.Prepare(t.Context(), ref); err == nil {
			t.Errorf("UID %q is accepted", uid)
		}
		s.mustUnprepare(ref)
	}
	if _, err := os.Stat(victim); err != nil {
		t.Error(err)
	}
}

func TestDirectoryIsCreatedWhenItIsNeeded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "cdi")
	s := newStore(t, dir, "1")
	ref := s.allocate("a", "uid-a", "1")
	s.mustUnprepare(ref)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory after unprepare: %v", err)
	}
	s.mustPrepare(ref)
	wantRuntimeDevices(t, dir, "color.example.com/claim=uid-a-1")
}

func TestFailedWriteIsAnswered(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, filepath.Join(dir, "cdi"), "1")
	ref := s.allocate("a", "uid-a", "1")
	if err := os.WriteFile(filepath.Join(dir, "cdi"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(t.Context(), ref); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("error %v", err)
	}
	if len(s.List()) > 0 {
		t.Errorf("claims %v", s.List())
	}
}

// Whoever wrote a configuration expects an effect.
func TestConfigurationIsRefused(t *testing.T) {
	s := newStore(t, t.TempDir(), "1")
	ref := s.allocate("a", "uid-a", "1")
	devices := &s.objects["default/a"].Status.Allocation.Devices
	for name, want := range map[string]string{
		"other.example.com": "",
		driver: "the claim or its DeviceClass has a configuration for driver color.example.com, " +
			"which takes none",
	} {
		devices.Config = []resourcev1.DeviceAllocationConfiguration{{
			DeviceConfiguration: resourcev1.DeviceConfiguration{
				Opaque: &resourcev1.OpaqueDeviceConfiguration{Driver: name},
			},
		}}
		if _, err := s.Prepare(t.Context(), ref); text(err) != want {
			t.Errorf("error %v, want %q", err, want)
		}
		s.mustUnprepare(ref)
	}
}

func TestClaimWaitsForTheFirstTree(t *testing.T) {
	s := newStore(t, t.TempDir(), "1")
	ref := s.allocate("a", "uid-a", "1")
	s.Inventory = func() *inventory.Inventory { return nil }
	_, err := s.Prepare(t.Context(), ref)
	if want := "the devices of this node have not been read yet; the kubelet tries again"; text(err) != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
