// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ServiceNames returns the words of qat/cfg_services (Documentation/ABI/testing/sysfs-driver-qat).
func ServiceNames() []string { return slices.Clone(services[:]) }

// CheckServices reports why the family's PFs do not accept a list of services in qat/cfg_services.
// It returns nil if they do. The order of the list has no meaning. The error names what is allowed.
//
// The rules are those of adf_gen4_services_supported for 4xxx, 401xx, 402xx and 420xx
// (drivers/crypto/intel/qat/qat_common/adf_gen4_hw_data.c), of services_supported for 6xxx
// (qat_6xxx/adf_6xxx_hw_data.c), and of adf_service_string_to_mask for repetitions
// (qat_common/adf_cfg_services.c). A kernel can accept less: Linux 6.0 only knows sym;asym and dc,
// Linux 6.16 does not know decomp, and the wireless variant of 6xxx only has sym.
func (f *Family) CheckServices(list []string) error {
	if !f.Services {
		return fmt.Errorf("%s has no configurable services", f.ConfigName())
	}
	if len(list) == 0 {
		return errors.New("no services: must be one or more of " + strings.Join(services[:], ", "))
	}
	for i, service := range list {
		if !slices.Contains(services[:], service) {
			return fmt.Errorf("unknown service %q: must be one of %s", service, strings.Join(services[:], ", "))
		}
		if slices.Contains(list[:i], service) {
			return fmt.Errorf("service %q occurs more than once", service)
		}
	}
	most, excluded, allowed := 2, []string{"dcc", "decomp"}, "one or two of asym, sym and dc, or dcc alone"
	if f.Gen == 6 {
		most, excluded, allowed = 3, []string{"dcc"}, "one to three of asym, sym, dc and decomp, or dcc alone"
	}
	isExcluded := func(service string) bool { return slices.Contains(excluded, service) }
	if slices.Equal(list, []string{"dcc"}) || len(list) <= most && !slices.ContainsFunc(list, isExcluded) {
		return nil
	}
	return fmt.Errorf("%s does not accept %s: must be %s", f.ConfigName(), strings.Join(list, ";"), allowed)
}
