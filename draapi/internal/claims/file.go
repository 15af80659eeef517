// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"qatplugin/cdi"
	"qatplugin/devtree"
)

// class is the CDI class of the devices of claims.
const class = "claim"

// uidPattern matches what may be part of a file name and of a CDI device name. The UIDs of
// Kubernetes are UUIDs.
var uidPattern = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)

// A file is the file of a prepared claim. It is immutable.
type file struct {
	info  fs.FileInfo
	claim *Claim // nil if the file cannot be read
}

// checkpoint is what the annotation of a file contains, as JSON. Fields may be added, and must not
// change their meaning.
type checkpoint struct {
	Namespace string             `json:"namespace"`
	Name      string             `json:"name"`
	UID       string             `json:"uid"`
	PodClaim  string             `json:"podClaim,omitempty"`
	Devices   []checkpointDevice `json:"devices"`
}

type checkpointDevice struct {
	Name        string   `json:"name"`
	Request     string   `json:"request"`
	AdminAccess bool     `json:"adminAccess,omitempty"`
	ShareID     string   `json:"shareID,omitempty"`
	ID          string   `json:"id"`
	Resource    string   `json:"resource"`
	CDINames    []string `json:"cdiNames"`
	Nodes       []string `json:"nodes,omitempty"`
}

// prefix is how the names of the files of claims begin.
func (s *Store) prefix() string { return s.Driver + "-" + class + "-" }

// path returns the path of the claim's file.
func (s *Store) path(uid string) string { return filepath.Join(s.CDIDir, s.prefix()+uid+".json") }

// annotation is the key of the annotation that holds the checkpoint.
func (s *Store) annotation() string { return s.Driver + "/" + class }

// Load reads the files that other processes have written or removed since the last call. A file
// that cannot be read is logged once, and left alone: its claim counts as not prepared.
func (s *Store) Load() error {
	changed, err := s.load()
	if changed {
		s.Changed()
	}
	return err
}

func (s *Store) load() (changed bool, err error) {
	s.disk.Lock()
	defer s.disk.Unlock()
	entries, err := os.ReadDir(s.CDIDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read the files of prepared claims: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found := map[string]bool{}
	for _, e := range entries {
		uid, isClaim := strings.CutPrefix(e.Name(), s.prefix())
		uid, isJSON := strings.CutSuffix(uid, ".json")
		if !isClaim || !isJSON || !uidPattern.MatchString(uid) {
			continue
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // it was removed meanwhile, or the driver has not written it
		}
		found[uid] = true
		if known := s.files[uid]; known != nil && sameFile(known.info, info) {
			continue
		}
		f := &file{info: info}
		if f.claim, err = s.read(uid); err != nil {
			s.Log.Error(err, "Cannot read the file of a prepared claim, leaving it alone until the claim is prepared "+
				"or unprepared", "path", s.path(uid))
		} else {
			f.claim.Prepared = info.ModTime()
			s.Log.V(2).Info("Found a prepared claim", "claim", f.claim.Ref, "uid", uid, "devices", f.claim.ids())
		}
		s.files[uid], changed = f, true
	}
	for uid, f := range s.files {
		if found[uid] {
			continue
		}
		if f.claim != nil {
			s.Log.V(2).Info("Another process has unprepared a claim", "claim", f.claim.Ref, "uid", uid)
		}
		delete(s.files, uid)
		changed = true
	}
	changed = changed || !s.loaded
	s.loaded = true
	return changed, nil
}

// sameFile reports whether both describe the same unchanged file.
func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// read reads the file of a claim.
func (s *Store) read(uid string) (*Claim, error) {
	spec, err := cdi.ReadSpec(s.path(uid))
	if err != nil {
		return nil, err
	}
	var c checkpoint
	if err := json.Unmarshal([]byte(spec.Annotations[s.annotation()]), &c); err != nil {
		return nil, fmt.Errorf("parse annotation %s: %w", s.annotation(), err)
	}
	if c.UID != uid || len(c.Devices) == 0 {
		return nil, fmt.Errorf("annotation %s describes claim %q with %d devices",
			s.annotation(), c.UID, len(c.Devices))
	}
	claim := &Claim{Ref: Ref{c.Namespace, c.Name, c.UID}, podClaim: c.PodClaim}
	for _, d := range c.Devices {
		claim.Devices = append(claim.Devices, Device{
			Name:        d.Name,
			Request:     d.Request,
			AdminAccess: d.AdminAccess,
			ShareID:     d.ShareID,
			ID:          d.ID,
			Resource:    d.Resource,
			CDINames:    d.CDINames,
			nodes:       d.Nodes,
			Device:      &devtree.Device{ID: d.ID},
		})
	}
	return claim, nil
}

// commit writes the files of the claim, unless another claim holds one of its devices. If again is
// set, it returns errUnprepared if another process has unprepared the claim.
func (s *Store) commit(ctx context.Context, claim *Claim, again bool) error {
	if err := os.MkdirAll(s.CDIDir, 0o755); err != nil {
		return fmt.Errorf("create the CDI directory: %w", err)
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.Load(); err != nil {
		return err
	}
	if again && s.find(claim.UID) == nil {
		return errUnprepared
	}
	if err := s.checkHolders(claim); err != nil {
		return err
	}
	if err := s.addMetadata(claim); err != nil {
		return err
	}
	spec := &cdi.Spec{Kind: s.Driver + "/" + class}
	c := checkpoint{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, PodClaim: claim.podClaim}
	names := map[string]int{}
	for i := range claim.Devices {
		d := &claim.Devices[i]
		name := claim.UID + "-" + d.Name
		if names[name]++; names[name] > 1 { // two requests of one claim, with admin access
			name += "." + strconv.Itoa(names[name])
		}
		spec.Devices = append(spec.Devices, cdi.SpecDevice{Name: name, Edits: d.Edits})
		d.CDINames = append([]string{spec.Kind + "=" + name}, d.Edits.CDINames...)
		c.Devices = append(c.Devices, checkpointDevice{
			Name:        d.Name,
			Request:     d.Request,
			AdminAccess: d.AdminAccess,
			ShareID:     d.ShareID,
			ID:          d.ID,
			Resource:    d.Resource,
			CDINames:    d.CDINames,
			Nodes:       d.nodes,
		})
	}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	spec.Annotations = map[string]string{s.annotation(): string(text)}
	path := s.path(claim.UID)
	s.disk.Lock()
	defer s.disk.Unlock()
	if err := spec.Write(path); err != nil {
		return fmt.Errorf("write the CDI spec of the claim: %w", err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("write the CDI spec of the claim: %w", err)
	}
	claim.Prepared = info.ModTime()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[claim.UID] = &file{info: info, claim: claim}
	return nil
}

// remove removes the files of a claim.
func (s *Store) remove(ctx context.Context, uid string) error {
	if !uidPattern.MatchString(uid) {
		return nil // no file has such a name
	}
	unlock, err := s.lock(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there is no directory, and so there are no files
	}
	if err != nil {
		return err
	}
	defer unlock()
	s.disk.Lock()
	defer s.disk.Unlock()
	if err := cdi.RemoveSpec(s.path(uid)); err != nil {
		return fmt.Errorf("remove the CDI spec of the claim: %w", err)
	}
	s.mu.Lock()
	delete(s.files, uid)
	s.mu.Unlock()
	return s.removeMetadata(uid)
}

const (
	lockInterval = 5 * time.Millisecond // between attempts to lock
	lockTimeout  = 10 * time.Second     // for a call without a deadline
)

// lock waits until no other call, of this process or another one, commits or removes a claim. The
// kernel releases the lock when the process ends.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	select {
	case <-s.turn:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for calls for other claims: %w", ctx.Err())
	}
	f, err := s.lockDir(ctx)
	if err != nil {
		s.turn <- struct{}{}
		return nil, err
	}
	return func() {
		_ = f.Close()
		s.turn <- struct{}{}
	}, nil
}

// lockDir waits until no other process holds the lock. Closing the file releases it.
func (s *Store) lockDir(ctx context.Context) (*os.File, error) {
	path := filepath.Join(s.CDIDir, "."+s.Driver+"-"+class+".lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the files of claims: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			break
		}
		select {
		case <-time.After(lockInterval):
			continue
		case <-ctx.Done():
			err = fmt.Errorf("another process holds the lock: %w", ctx.Err())
		}
		break
	}
	_ = f.Close()
	return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
}
