# Egret for linux/amd64. For linux/arm64 all wheels are there; it was not built or run for it.
# Both bases are named with their digest, by whoever builds:
#   make image PYTHON_IMAGE=python:3.13-slim@sha256:…
# The last stage runs nothing, so RUNTIME_IMAGE may be one without a shell, as long as it has the
# same Python in the same place.
ARG PYTHON_IMAGE
ARG RUNTIME_IMAGE=${PYTHON_IMAGE}
# Or `runtime`, without the packages that two guardrails need: some 85 MB less.
ARG REQUIREMENTS=guardrails

FROM ${PYTHON_IMAGE} AS build
ARG REQUIREMENTS
WORKDIR /build
COPY requirements/build.txt requirements/${REQUIREMENTS}.txt requirements/
# Wheels alone, each with its hash: nothing is compiled and no set-up code runs. Without pip in the
# environment that is shipped, and compiled ahead, since it is read-only later.
RUN python3 -m venv /opt/build \
 && python3 -m venv --without-pip /opt/egret \
 && /opt/build/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
      --only-binary :all: --require-hashes -r requirements/build.txt \
 && /opt/build/bin/python -m pip --python /opt/egret/bin/python install --no-cache-dir \
      --disable-pip-version-check --only-binary :all: --require-hashes -r "requirements/${REQUIREMENTS}.txt"
COPY pyproject.toml README.md LICENSE ./
COPY db db
COPY envoy envoy
COPY sidecar sidecar
COPY tools tools
# egret-tools without its servers and clients: `egret lint`, `egret envoy render`, `egret logs`, `egret top`,
# `egret replay`, `egret bench`.
RUN /opt/build/bin/python -m build --wheel --no-isolation --outdir dist . \
 && /opt/build/bin/python -m build --wheel --no-isolation --outdir dist tools \
 && /opt/build/bin/python -m pip --python /opt/egret/bin/python install --no-cache-dir \
      --disable-pip-version-check --no-index --no-deps dist/*.whl \
 && mkdir -p /opt/empty

FROM ${RUNTIME_IMAGE}
ARG VERSION=dev
LABEL org.opencontainers.image.title="Egret" \
      org.opencontainers.image.description="Guarded LLM egress for Envoy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/egret /opt/egret
# What is written to, where no volume is mounted there. By number: a kubelet cannot tell from a name
# that it is not root's.
COPY --from=build --chown=65532:65532 /opt/empty /run/egret
COPY --from=build --chown=65532:65532 /opt/empty /var/lib/egret
ENV PATH=/opt/egret/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    USER=egret \
    EGRET_USAGE__SPOOL_DIRECTORY=/var/lib/egret/usage \
    EGRET_TELEMETRY__METRICS_HOST=0.0.0.0
WORKDIR /tmp
USER 65532:65532
EXPOSE 9464 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["/opt/egret/bin/egret", "health"]
ENTRYPOINT ["/opt/egret/bin/egret"]
CMD ["serve"]
