package deployments

// An overlay is one way to install the plugin.
type overlay struct {
	name   string // of its file in testdata
	dir    string // below deployments
	values string // of the chart, that render the same
}

func overlays() []overlay {
	return []overlay{
		{"base", "qat_plugin", ``},
		{"debug", "qat_plugin/overlays/debug", `{nameSuffix: -debug, config: {verbosity: 4}}`},
		{"kernel", "qat_plugin/overlays/kernel", `{mode: kernel}`},
		{"cdi", "qat_plugin/overlays/cdi", `{cdi: {enabled: true}}`},
		{"nfd", "qat_plugin/overlays/nfd", `{nfd: {enabled: true}}`},
	}
}

// others are the directories of deployments that install no plugin, by the names of their files in testdata.
func others() map[string]string {
	return map[string]string{
		"node-feature-rules": "nfd", "sample": "workloads/sample", "crypto-perf": "workloads/crypto-perf", "compress-perf": "workloads/compress-perf",
	}
}
