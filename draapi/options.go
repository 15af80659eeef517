// SPDX-License-Identifier: Apache-2.0

package draapi

type config struct{}

// An Option changes a setting of a Driver.
type Option func(*config)
