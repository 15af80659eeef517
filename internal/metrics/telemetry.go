// SPDX-License-Identifier: Apache-2.0

package metrics

import "qatplugin/internal/status"

var (
	telemetrySamples = counter("qat_device_telemetry_samples_total",
		"Samples that the telemetry of the device has taken since it was switched on.", "pf")
	utilization = gauge("qat_device_utilization_ratio",
		"Mean utilization of the slices of a type during the last sample, from 0 to 1.", "pf", "slice_type")
	bandwidth = gauge("qat_device_bandwidth_bytes_per_second",
		"PCIe bandwidth of the device during the last sample.", "pf", "direction")
	latency = gauge("qat_device_latency_seconds",
		"Latency that the device measured during the last sample.", "pf", "kind")
	firmwareRequests = counter("qat_device_firmware_requests_total",
		"Requests that the firmware of an acceleration engine has received.", "pf", "engine")
	firmwareResponses = counter("qat_device_firmware_responses_total",
		"Responses that the firmware of an acceleration engine has sent.", "pf", "engine")
	compressErrors = counter("qat_device_compress_errors_total",
		"Errors that compress-and-verify found in the output of an acceleration engine.", "pf", "engine")
	rasErrors = counter("qat_device_ras_errors_total",
		"Hardware errors that the driver has counted.", "pf", "severity")
	pciErrors = counter("qat_device_pci_errors_total",
		"PCIe errors of the PF that Advanced Error Reporting has counted.", "pf", "severity")
)

// telemetry passes the counters of a PF. Those that its driver or the kernel does not have are
// absent.
func (e emitter) telemetry(t *status.Telemetry) {
	if d := t.Device; d != nil {
		e.deviceTelemetry(t.Address, d)
	}
	for _, f := range t.Firmware {
		e.count(firmwareRequests, f.Requests, t.Address, f.Engine)
		e.count(firmwareResponses, f.Responses, t.Address, f.Engine)
	}
	for engine, n := range t.CompressErrors {
		e.count(compressErrors, n, t.Address, engine)
	}
	for severity, n := range t.RAS {
		e.count(rasErrors, n, t.Address, severity)
	}
	for severity, n := range t.AER {
		e.count(pciErrors, n, t.Address, severity)
	}
}

func (e emitter) deviceTelemetry(pf string, d *status.DeviceTelemetry) {
	e.count(telemetrySamples, d.Samples, pf)
	for kind, percent := range d.Utilization {
		e.emit(utilization, percent/100, pf, kind)
	}
	e.emit(bandwidth, d.BandwidthIn/8, pf, "in")
	e.emit(bandwidth, d.BandwidthOut/8, pf, "out")
	for _, l := range []struct {
		kind    string
		seconds float64
	}{
		{"read", d.ReadLatency},
		{"read_max", d.MaxReadLatency},
		{"get_put", d.GetPutLatency},
		{"get_put_max", d.MaxGetPutLatency},
		{"page_request", d.PageRequestLatency},
		{"translation", d.TranslationLatency},
	} {
		if l.seconds > 0 {
			e.emit(latency, l.seconds, pf, l.kind)
		}
	}
}
