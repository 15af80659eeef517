# Builds the image of qat_plugin and qatctl, or of qat_dra_driver and qatctl, with docker, podman or
# buildah. `make image` and `make image-dra` need none of them, are reproducible and write an SBOM.
# The images have the same files, labels, entry point and user; a test in tools/image compares them.
#
#   docker build -t intel-qat-plugin:devel .
#   docker build -t intel-qat-plugin:v1.0.0 --build-arg VERSION=v1.0.0 \
#     --label org.opencontainers.image.revision="$(git rev-parse HEAD)" .
#   docker build -t intel-qat-dra-driver:devel --build-arg FRONT=dra .
#
# VERSION is the version that the programs report. GO_IMAGE is an image with Go, which may be
# pinned by its digest. With GPL=no the programs contain no code under the GPL (NOTICE).

ARG FRONT=device-plugin
ARG GPL=yes
ARG GO_IMAGE=docker.io/library/golang:1.26

# The build runs on the platform of this machine; Go builds for any other. (To build for another
# platform, old versions of buildah need --build-arg BUILDPLATFORM=linux/amd64.)
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
# The modules first, so that they are downloaded again only when one of these files changes.
COPY go.mod go.sum ./
COPY tools/image/go.mod tools/image/go.sum tools/image/
RUN go mod download && go -C tools/image mod download
COPY . .
ARG VERSION=devel
ARG TARGETARCH
ARG FRONT
ARG GPL
# tools/image builds the programs and collects the licenses of everything that is linked.
RUN go -C tools/image run . -front "$FRONT" -version "$VERSION" -arch "${TARGETARCH:-$(go env GOARCH)}" \
    -gpl "$GPL" -rootfs /rootfs

FROM scratch AS device-plugin
LABEL org.opencontainers.image.title="intel-qat-plugin" \
      org.opencontainers.image.description="Tells the kubelet of a host's Intel QuickAssist (QAT) virtual functions as they come and go, and binds them for user space" \
      name="intel-qat-plugin" \
      summary="Event-driven Kubernetes device plugin for Intel QAT" \
      description="Tells the kubelet of a host's Intel QuickAssist (QAT) virtual functions as they come and go, and binds them for user space"
ENTRYPOINT ["/usr/local/bin/qat_plugin"]

FROM device-plugin AS device-plugin-gpl-yes
LABEL org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND GPL-3.0-only AND MIT"

FROM device-plugin AS device-plugin-gpl-no
LABEL org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND MIT"

FROM scratch AS dra
LABEL org.opencontainers.image.title="intel-qat-dra-driver" \
      org.opencontainers.image.description="Offers a host's Intel QuickAssist (QAT) virtual functions through Kubernetes' Dynamic Resource Allocation as they come and go, and binds them for user space" \
      name="intel-qat-dra-driver" \
      summary="Event-driven DRA driver for Intel QAT" \
      description="Offers a host's Intel QuickAssist (QAT) virtual functions through Kubernetes' Dynamic Resource Allocation as they come and go, and binds them for user space"
ENTRYPOINT ["/usr/local/bin/qat_dra_driver"]

FROM dra AS dra-gpl-yes
LABEL org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND GPL-3.0-only AND ISC AND MIT"

FROM dra AS dra-gpl-no
LABEL org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND ISC AND MIT"

FROM ${FRONT}-gpl-${GPL}
ARG VERSION=devel
COPY --from=build /rootfs/ /
LABEL org.opencontainers.image.version="$VERSION"
USER 0:0
