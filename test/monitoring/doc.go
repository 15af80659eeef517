// SPDX-License-Identifier: Apache-2.0

// Package monitoring tests the alert rules and the dashboard in deployments/monitoring, and
// docs/monitoring.md, with promtool, the parser of Prometheus and the schema of Grafana. The tests
// check that
//
//   - each alert fires on its fault, and only then: rules_test.yaml, which promtool runs
//   - each metric and label in a query exists in the plugin's registry
//   - Grafana knows every field of the dashboard, and each panel has a unit and a description
//   - docs/monitoring.md describes each alert
//
// test/run.sh provides promtool. Otherwise the tests use the one in PATH. Those that need it are
// skipped without one.
//
// It is a module of its own, so that the product does not depend on Prometheus and Grafana.
package monitoring
