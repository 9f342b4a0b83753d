# The relay's image: one static program on nothing, as a user without rights.
# Each step of the build stage is a plain command in /src, so that it can be run by hand, and is run by a test, without a
# container engine. What else lies in the checkout (keys, a cfa.yaml) cannot get in: .dockerignore admits these paths only.

# Built on the machine that is there, for whichever is wanted: Go crosses by itself, and no emulator runs the compiler.
# By the digest of the image's index, for every machine, because a tag can be moved, and what builds could build in
# anything. dependabot proposes the next; a release compares the program with the one that was promised.
FROM --platform=$BUILDPLATFORM golang:1.26.8@sha256:6c2a5538f964f1c82f97ad14988bf05de100d922d159d0e398b54c7b0ca0c6c9 AS build
ARG TARGETARCH
# With a release's version, the program is that release's cfa-relay_VERSION_linux_ARCH, to the byte.
ARG VERSION=
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY deploy/cluster ./deploy/cluster
COPY internal ./internal
COPY relay ./relay
RUN CGO_ENABLED=0 GOARCH=$TARGETARCH go build -trimpath -buildvcs=false -ldflags="-s -w -X main.release=$VERSION" -o out/cfa-relay ./relay
RUN mkdir -p out/data

FROM scratch
# The providers' key sets come over HTTPS, and scratch trusts nobody.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/out/cfa-relay /cfa-relay
# A new volume takes its owner from here; without it the relay could not write its own data.
COPY --from=build --chown=65532:65532 /src/out/data /data
USER 65532:65532
VOLUME /data
EXPOSE 4222
ENTRYPOINT ["/cfa-relay"]
CMD ["serve", "--config", "/etc/cfa/cfa.yaml"]
