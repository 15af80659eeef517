package kernelmode

import (
	"cmp"
	"slices"

	"k8s.io/klog/v2"
)

// An Omission is something that is there but not served.
type Omission struct {
	Subject string // a device (c6xx_dev0), a section ([SSL]), a line of adf_ctl's (qat_dev0), or adf_ctl itself
	Reason  string
}

// sortOmissions puts them in an order that does not depend on who found them first.
func sortOmissions(list []Omission) []Omission {
	slices.SortFunc(list, func(a, b Omission) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Reason, b.Reason))
	})
	return slices.Compact(list)
}

// logOmissions says what is left out now and was not, for that reason, before; and what is not left out any more. Both are sorted.
func logOmissions(before, now []Omission) {
	subject := func(list []Omission, name string) bool {
		return slices.ContainsFunc(list, func(o Omission) bool { return o.Subject == name })
	}
	for _, o := range now {
		if !slices.Contains(before, o) {
			klog.InfoS("Left out", "subject", o.Subject, "reason", o.Reason)
		}
	}
	for _, o := range before {
		if !subject(now, o.Subject) {
			klog.InfoS("Not left out any more", "subject", o.Subject)
		}
	}
}
