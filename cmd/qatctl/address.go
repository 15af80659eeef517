// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"qatplugin/internal/status"
)

// findAddress returns the one address that a user means, who may leave out its beginning.
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
		return "", fmt.Errorf("no QAT device %s is known: qatctl list shows those that are", text)
	}
	return "", fmt.Errorf("%s can be %s: name one of them", text, alternatives(found))
}

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
