// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"qatplugin/devtree"
	"qatplugin/draapi"
	"qatplugin/internal/metrics"
)

// An observer passes what the driver does on to the metrics.
type observer struct{ meters *metrics.DRA }

var _ draapi.Observer = observer{}

// SliceWritten implements [draapi.Observer].
func (o observer) SliceWritten(slice, operation string, took time.Duration, err error) {
	reason := ""
	if err != nil {
		reason = metrics.ReasonNoAnswer
		if status := apierrors.APIStatus(nil); errors.As(err, &status) {
			reason = cmp.Or(string(status.Status().Reason), "Other")
		}
	}
	o.meters.SliceWritten(slice, operation, took, reason, err)
}

// Published implements [draapi.Observer].
func (o observer) Published(tree *devtree.Tree) { o.meters.Published(tree) }

// Registered implements [draapi.Observer].
func (o observer) Registered(err error) { o.meters.Registered(err) }

// Prepared implements [draapi.Observer].
func (o observer) Prepared(claim *draapi.Claim, took time.Duration, err error) {
	o.meters.Prepared(claim.String(), addresses(claim), took, err)
}

// Unprepared implements [draapi.Observer].
func (o observer) Unprepared(claim *draapi.Claim, took time.Duration, err error) {
	o.meters.Unprepared(claim.String(), addresses(claim), took, err)
}

// HealthSent implements [draapi.Observer].
func (o observer) HealthSent(_, bytes int) { o.meters.HealthSent(bytes) }

func addresses(claim *draapi.Claim) (list []string) {
	for i := range claim.Devices {
		if d := claim.Devices[i].Device; d != nil {
			list = append(list, d.ID)
		}
	}
	return list
}
