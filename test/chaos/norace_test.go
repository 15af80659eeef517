// SPDX-License-Identifier: Apache-2.0

//go:build !race

package chaos

const raceEnabled = false
