// SPDX-License-Identifier: Apache-2.0

package claims

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"qatplugin/internal/retry"
)

const (
	// callTimeout limits a call without a deadline. The kubelet's has this one
	// (pkg/kubelet/cm/dra/plugin/dra_plugin.go, defaultClientCallTimeout).
	callTimeout = 45 * time.Second

	// answerTime is left of a call's time to answer it, so that the kubelet receives the error of
	// the API server and not only a timeout.
	answerTime = time.Second

	// preparedTimeout limits the request for a claim that can be answered without it. The kubelet
	// has just read the claim, so the API server usually answers.
	preparedTimeout = 2 * time.Second

	retryFirst = 100 * time.Millisecond
	retryMax   = 2 * time.Second
)

// getClaim reads the claim from the API server. It tries again, until shortly before ctx ends, if
// the error may pass. For a claim that is prepared, it tries once.
func (s *Store) getClaim(ctx context.Context, ref Ref, isPrepared bool) (*resourcev1.ResourceClaim, error) {
	deadline, limited := ctx.Deadline()
	if !limited {
		deadline = time.Now().Add(callTimeout)
	}
	deadline = deadline.Add(-answerTime)
	if isPrepared {
		deadline = earlier(deadline, time.Now().Add(preparedTimeout))
	}
	getCtx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var last error
	for pause := (retry.BackOff{First: retryFirst, Limit: retryMax}); ; {
		object, err := s.GetClaim(getCtx, ref.Namespace, ref.Name)
		switch {
		case err == nil:
			return object, nil
		case last == nil || getCtx.Err() == nil:
			last = err // unless it is a timeout that follows another error
		}
		if isPrepared || !isTransient(err) || getCtx.Err() != nil {
			break
		}
		s.Log.V(2).Info("Cannot get a claim, trying again", "claim", ref, "reason", err.Error())
		wait := pause.Next()
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
			wait = max(wait, time.Duration(seconds)*time.Second)
		}
		select {
		case <-getCtx.Done():
		case <-time.After(wait):
			continue
		}
		break
	}
	if apierrors.IsForbidden(last) {
		return nil, fmt.Errorf("get the claim: %w; allow the driver's service account to get resourceclaims", last)
	}
	return nil, fmt.Errorf("get the claim: %w", last)
}

// isTransient reports whether a request that has failed with err may succeed later. An answer of
// the API server is final if it refuses the request itself. All other errors, such as those of the
// network, may pass.
func isTransient(err error) bool {
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) {
		return true
	}
	switch code := status.Status().Code; code {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return true
	default:
		return code < 400 || code >= 500
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
