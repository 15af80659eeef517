# Bare `make` lists the targets: the words after each "##".

FUZZTIME ?= 30s
BENCH    ?= .
ARGS     ?=
IMAGE    ?= intel-qat-plugin
VERSION  ?= devel
ARCH     ?= amd64
SOURCE   ?=

.PHONY: help
help: ## list the targets
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
# -buildvcs=false: in a checkout of another user git refuses to answer, and go would stop for it.
build: ## build the programs into bin/
	go build -buildvcs=false -o bin/ ./cmd/...

.PHONY: demo
demo: build ## see the plugin at work on a look-alike host: no root, no hardware (ARGS=-keep stays and follows your changes)
	@bin/qat_demo $(ARGS)

.PHONY: test
test: ## lint, unit, deployments and every e2e; installs what is missing when it may, and says what it leaves out
	@test/run.sh

.PHONY: lint
lint: ## gofmt, go vet and staticcheck, in every module
	@test/run.sh lint

.PHONY: unit
unit: ## the main module's tests, with the race detector, the fuzz targets' seeds included
	@test/run.sh unit

.PHONY: e2e-kubelet
e2e-kubelet: ## the plugin with the real kubelet's device manager (built first: minutes)
	@test/run.sh kubelet

.PHONY: e2e
e2e: ## the plugin on a real Linux kernel in QEMU (TEST_ARGS='-test.run TestName' for some of it)
	@test/run.sh vm

.PHONY: e2e-cluster
e2e-cluster: ## the deployments on a real Kubernetes of one node, as root (TEST_ARGS='-test.run TestName' for some of it)
	@test/run.sh cluster

.PHONY: bench
bench: ## every benchmark, with allocations (BENCH=pattern for some, ARGS for more of go test's flags)
	go test -run '^$$' -bench '$(BENCH)' -benchmem $(ARGS) $$(test/list.sh Benchmark | cut -d' ' -f1 | sort -u)

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (30s)
	@test/list.sh Fuzz | while read -r dir name; do \
		echo "== $$name in $$dir for $(FUZZTIME)" && \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$dir" || exit 1; \
	done

.PHONY: image
image: ## build the container image and its SBOM into bin/image/, without a daemon (IMAGE, VERSION, ARCH=arm64, SOURCE=URL of the sources)
	@go -C tools/image run -buildvcs=false . -root "$(CURDIR)" -image "$(IMAGE)" -version "$(VERSION)" -arch "$(ARCH)" -source "$(SOURCE)"

.PHONY: clean
clean: ## remove what was built here (the caches of go and of the virtual machine stay)
	rm -rf bin
	find . -path ./.git -prune -o \( -name '*.test' -o -name '*.prof' \) -type f -exec rm {} +
