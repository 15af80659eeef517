# SPDX-License-Identifier: Apache-2.0
#
# `make` without a target lists the targets: the text after each "##".

FUZZTIME ?= 30s
BENCH    ?= .
ARGS     ?=
PKG      ?=
IMAGE    ?= intel-qat-plugin
DRA_IMAGE ?= intel-qat-dra-driver
VERSION  ?= devel
ARCH     ?= amd64
SOURCE   ?=
PUBLISHED ?=
INTEL    ?=
GPL      ?= yes

# Build tags of the programs, by GPL. grpcnotrace leaves out golang.org/x/net/trace, which nothing
# uses, and its templates, which make the linker keep every exported method.
TAGS_yes := grpcnotrace
TAGS_no  := grpcnotrace,nogpl

.PHONY: help
help: ## list the targets
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
# -buildvcs=false: in a checkout that belongs to another user, git refuses to run and go build would
# fail with it. CGO_ENABLED=0: as in the image, the programs need no C library.
build: ## build the programs into bin/ (GPL=no)
	CGO_ENABLED=0 go build -buildvcs=false -tags "$(TAGS_$(GPL))" -o bin/ ./cmd/...

.PHONY: demo
demo: build ## watch the plugin work on a look-alike host (ARGS=-keep: change it yourself)
	@bin/qat_demo $(ARGS)

.PHONY: test
test: ## run lint, unit, deployments and all e2e tests; print what was skipped and why
	@test/run.sh

.PHONY: lint
lint: ## run gofmt, go vet, staticcheck and tools/lint in every module
	@test/run.sh lint

.PHONY: unit
unit: ## run the tests of the main module with the race detector
	@test/run.sh unit

.PHONY: chaos
chaos: ## break what surrounds the running plugin, and see it recover (SEED=N: another order)
	@test/run.sh chaos

.PHONY: e2e-kubelet
e2e-kubelet: ## test with the real kubelet's device manager (the first build takes minutes)
	@test/run.sh kubelet

.PHONY: e2e-browser
e2e-browser: ## test the status page in a headless Chromium
	@test/run.sh browser

.PHONY: e2e
e2e: ## test on a real Linux kernel in QEMU (TEST_ARGS='-test.run NAME': some tests)
	@test/run.sh vm

.PHONY: e2e-fleet
e2e-fleet: ## test the DRA drivers of a small fleet with a real API server
	@test/run.sh fleet

.PHONY: e2e-cluster
e2e-cluster: ## test on a real one-node Kubernetes, as root (TEST_ARGS='-test.run NAME': some tests)
	@test/run.sh cluster

.PHONY: bench
bench: ## run the benchmarks (BENCH=PATTERN: some; ARGS: more flags of go test)
	go test -run '^$$' -bench '$(BENCH)' -benchmem $(ARGS) \
		$$(test/list.sh Benchmark | cut -d' ' -f1 | sort -u)

.PHONY: bench-compare
bench-compare: build ## measure beside Intel's plugin, for docs/performance.* (PUBLISHED=ITS PROGRAM; ARGS)
	@test -x "$(PUBLISHED)" || { echo "usage: make bench-compare PUBLISHED=PROGRAM; see docs/performance.md" >&2; exit 2; }
	go test -run '^$$' -bench '^BenchmarkEventToKubelet$$' -benchtime 3x ./test/bench | tee bin/floor.txt
	go -C test/compare build -buildvcs=false -o ../../bin/compare .
	bin/compare -ours bin/qat_plugin -published "$(PUBLISHED)" -floor bin/floor.txt \
		-doc docs/performance.md -plot docs/performance.svg $(ARGS)

.PHONY: screenshots
screenshots: ## write docs/images, and the outputs in docs/qatctl.md (needs Debian's chromium and fonts-inter)
	@mkdir -p docs/images
	go test -count=1 -run '^TestDocumentShowsRealOutput$$' ./cmd/qatctl -update
	go -C test/browser test -count=1 -run '^TestScreenshots$$' . -args -images "$(CURDIR)/docs/images"

.PHONY: bench-observed
bench-observed: build ## measure what it costs to look into the plugin, for docs/performance.md (ARGS)
	go -C test/compare build -buildvcs=false -o ../../bin/compare .
	bin/compare -ours bin/qat_plugin -observed -sizes 64,1024 -idle 60s -doc docs/performance.md $(ARGS)

.PHONY: bench-dra
bench-dra: ## measure qat_dra_driver with a real API server, for docs/performance.md (INTEL=ITS PROGRAM; ARGS)
	@test/fleet/run.sh bench-dra $(if $(INTEL),-intel "$(INTEL)") $(ARGS)

.PHONY: fleet
fleet: ## measure fleets of up to 1,000 nodes with DRA, for docs/scale.md (ARGS='-sizes 10,100': others)
	@test/fleet/run.sh fleet $(ARGS)

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s)
	@test/list.sh Fuzz | while read -r dir name; do \
		echo "== $$name in $$dir for $(FUZZTIME)" && \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$dir" || exit 1; \
	done

.PHONY: mutate
mutate: ## mutation testing of the product's packages, which takes hours (PKG='./events': some)
	@test/mutate.sh $(PKG)

# $(call build-image,FRONT,NAME)
build-image = go -C tools/image run -buildvcs=false . -root "$(CURDIR)" -front $(1) \
	-image "$(2)" -version "$(VERSION)" -arch "$(ARCH)" -source "$(SOURCE)" -gpl "$(GPL)"

.PHONY: image
image: ## build the plugin's image and its SBOM into bin/image/ (IMAGE, VERSION, ARCH, SOURCE; GPL=no)
	@$(call build-image,device-plugin,$(IMAGE))

.PHONY: image-dra
image-dra: ## build the image of the DRA driver into bin/image/ (DRA_IMAGE, and as for image)
	@$(call build-image,dra,$(DRA_IMAGE))

.PHONY: clean
clean: ## remove build results (the caches of go, of the test VM and of the test cluster stay)
	rm -rf bin
	find . -path ./.git -prune -o \( -name '*.test' -o -name '*.prof' \) -type f -exec rm {} +
