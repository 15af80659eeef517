# The image of qat_plugin for those who build with docker, podman or buildah. `make image` makes it without any of them, reproducibly and
# with an SBOM. Both have the same files, labels, entry point and user: a test of tools/image holds this file to that.
#
#   docker build -t intel-qat-plugin:devel .
#   docker build -t intel-qat-plugin:v1.0.0 --build-arg VERSION=v1.0.0 --label org.opencontainers.image.revision="$(git rev-parse HEAD)" .
#
# VERSION is what the program says of itself. GO_IMAGE is another image with Go in it, such as one pinned by its digest.

ARG GO_IMAGE=docker.io/library/golang:1.26

# On the machine's own platform, whatever the image is for: Go builds for any. (An old buildah must be told it, for an image of another
# platform: --build-arg BUILDPLATFORM=linux/amd64.)
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
WORKDIR /src
# The modules first: they are downloaded again only when one of these files changed.
COPY go.mod go.sum ./
COPY tools/image/go.mod tools/image/go.sum tools/image/
RUN go mod download && go -C tools/image mod download
COPY . .
ARG VERSION=devel
ARG TARGETARCH
# tools/image builds the program and gathers the licences of all that is linked; it says what is in the image.
RUN go -C tools/image run . -version "$VERSION" -arch "${TARGETARCH:-$(go env GOARCH)}" -rootfs /rootfs

FROM scratch
ARG VERSION=devel
COPY --from=build /rootfs/ /
LABEL org.opencontainers.image.title="intel-qat-plugin" \
      org.opencontainers.image.description="Tells the kubelet of a host's Intel QuickAssist (QAT) virtual functions as they come and go, and binds them for user space" \
      org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND GPL-3.0-only" \
      org.opencontainers.image.version="$VERSION" \
      name="intel-qat-plugin" \
      summary="Event-driven Kubernetes device plugin for Intel QAT" \
      description="Tells the kubelet of a host's Intel QuickAssist (QAT) virtual functions as they come and go, and binds them for user space"
USER 0:0
ENTRYPOINT ["/usr/local/bin/qat_plugin"]
