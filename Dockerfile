# Builds the image of qat_plugin and qatctl with docker, podman or buildah. `make image` needs none
# of them, is reproducible and writes an SBOM. Both images have the same files, labels, entry point
# and user; a test in tools/image compares them.
#
#   docker build -t intel-qat-plugin:devel .
#   docker build -t intel-qat-plugin:v1.0.0 --build-arg VERSION=v1.0.0 \
#     --label org.opencontainers.image.revision="$(git rev-parse HEAD)" .
#
# VERSION is the version that the programs report. GO_IMAGE is an image with Go, which may be
# pinned by its digest. With GPL=no the programs contain no code under the GPL (NOTICE).

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
ARG GPL
# tools/image builds the programs and collects the licenses of everything that is linked.
RUN go -C tools/image run . -version "$VERSION" -arch "${TARGETARCH:-$(go env GOARCH)}" -gpl "$GPL" -rootfs /rootfs

FROM scratch AS gpl-yes
LABEL org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND GPL-3.0-only AND MIT"

FROM scratch AS gpl-no
LABEL org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND MIT"

FROM gpl-${GPL}
ARG VERSION=devel
COPY --from=build /rootfs/ /
LABEL org.opencontainers.image.title="intel-qat-plugin" \
      org.opencontainers.image.description="Tells the kubelet of a host's Intel QuickAssist (QAT) virtual functions as they come and go, and binds them for user space" \
      org.opencontainers.image.version="$VERSION" \
      name="intel-qat-plugin" \
      summary="Event-driven Kubernetes device plugin for Intel QAT" \
      description="Tells the kubelet of a host's Intel QuickAssist (QAT) virtual functions as they come and go, and binds them for user space"
USER 0:0
ENTRYPOINT ["/usr/local/bin/qat_plugin"]
