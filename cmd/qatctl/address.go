// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"qatplugin/internal/status"
)

// findAddress returns the only address that is text or ends with it after a colon.
func findAddress(text string, addresses []string) (string, error) {
	text = strings.ToLower(text)
	if slices.Contains(addresses, text) {
		return text, nil
	}
	var found []string
	for _, address := range addresses {
		if strings.HasSuffix(address, ":"+text) {
			found = append(found, address)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("no QAT device %s is known: qatctl list shows those that are, and qatctl events "+
			"--device %[1]s what happened to one that is gone", text)
	}
	return "", fmt.Errorf("%s can be %s: name one of them", text, alternatives(found))
}

// findPF is findAddress for the PFs of a snapshot.
func findPF(s *status.Snapshot, text string) (string, error) {
	address, err := findAddress(text, addressesOfPFs(s))
	if err == nil {
		return address, nil
	}
	vf, notVF := findAddress(text, addressesOfVFs(s))
	if notVF != nil {
		return "", err
	}
	i := slices.IndexFunc(s.VFs, func(v status.VF) bool { return v.Address == vf })
	return "", fmt.Errorf("%s is a VF; its PF is %s", vf, cmp.Or(s.VFs[i].PF, "not on this host"))
}

// unreadable returns the addresses of the skipped functions about which nothing else is known,
// because not even their kind could be read.
func unreadable(s *status.Snapshot) (list []string) {
	for _, l := range s.Loops {
		for address := range l.Skipped {
			known := slices.Contains(addressesOfPFs(s), address) || slices.Contains(addressesOfVFs(s), address)
			if !known && fullAddress.MatchString(address) {
				list = append(list, address)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// skipReason returns why a function is skipped, or "".
func skipReason(s *status.Snapshot, address string) string {
	for _, l := range s.Loops {
		if reason := l.Skipped[address]; reason != "" {
			return reason
		}
	}
	return ""
}

// fullAddress matches a PCI address.
var fullAddress = regexp.MustCompile(`^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

func addressesOfPFs(s *status.Snapshot) (list []string) {
	for i := range s.PFs {
		list = append(list, s.PFs[i].Address)
	}
	return list
}

func addressesOfVFs(s *status.Snapshot) (list []string) {
	for i := range s.VFs {
		list = append(list, s.VFs[i].Address)
	}
	return list
}
