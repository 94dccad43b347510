# docker build -t sockgate .
# docker run --network host --stop-timeout 45 -e JWT_SECRET \
#   -v ./sockgate.yaml:/etc/sockgate/sockgate.yaml:ro sockgate
#
# The host's network, because 127.0.0.1:3000 in the file is the container's own
# otherwise; beside a server in a container it is --network container:NAME. And 45 s,
# because a drain takes 30 and `docker stop` waits for 10.
#
# tests/image builds exactly this file, from bases of its own.
ARG RUST_IMAGE=docker.io/library/rust:1.95-bookworm
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim

FROM ${RUST_IMAGE} AS builder
WORKDIR /src

# The dependencies, as a layer that only a change of the manifests rebuilds.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches/peers \
    && touch src/lib.rs benches/instructions.rs benches/micro.rs benches/peers/main.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked

COPY src src
# Newer than the placeholders, whatever time the checkout gave them.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin sockgate \
    && cp target/release/sockgate /sockgate

FROM ${BASE_IMAGE}
# For wss:// and https:// upstreams; rustls reads the bundle.
COPY --from=builder /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=builder /sockgate /usr/local/bin/

# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 65532:65532
# Clients. Admin listens on loopback unless the configuration says otherwise.
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/sockgate"]
CMD ["--config", "/etc/sockgate/sockgate.yaml"]
