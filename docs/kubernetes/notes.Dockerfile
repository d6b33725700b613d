# The bundled example app, a notes board, as an image to try the guides with. From the top of the tree:
#   docker build -f docs/kubernetes/notes.Dockerfile -t registry.example/notes:1.4 .
ARG BUILDER=rust:1-bookworm
ARG BASE=debian:bookworm-slim

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked -p synod-cli --bin synod && cp target/release/synod /

FROM ${BASE}
COPY --from=build /synod /usr/local/bin/synod
ENV PORT=8080 DATA_DIR=/tmp
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/synod", "example-app"]
