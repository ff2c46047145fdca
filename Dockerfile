# The image of inferd.
#
#   docker build -t inferd .
#   docker build -t inferd:gpu --build-arg VARIANT=gpu \
#     --build-arg BASE=docker.io/nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 .
#
# What builds stays behind: the image has its base, an init, Python packages from the locks, inferd and its models.
# docs/operations.md ("Container image") says how to run it, and what is in it. There is one base and no stage that is
# chosen by name, as builders of buildah's older releases know no such choice.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS base
# A release of Debian or Ubuntu keeps one version of a package and takes older ones away: none can be pinned.
# hadolint ignore=DL3008
RUN set -eu; python=python3; if command -v python3 >/dev/null; then python=; fi; \
    apt-get update -qq; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends tini $python >/dev/null; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log; \
    groupadd --gid 10001 inferd; \
    useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin inferd; \
    install -d -o 10001 -g 0 -m 0775 /var/cache/inferd

FROM base AS build
ARG VARIANT=cpu
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# hadolint ignore=DL3008
RUN set -eu; python3 -m pip --version >/dev/null 2>&1 || { \
      apt-get update -qq; \
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates python3-pip >/dev/null; \
      rm -rf /var/lib/apt/lists/*; }
# The two secrets are for networks in which pip needs settings or certificates of its own; nothing of them is kept.
COPY requirements/serve.txt requirements/serve-gpu.txt requirements/build.txt requirements/
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf,required=false \
    --mount=type=secret,id=cabundle,target=/run/ca.crt,required=false \
    --mount=type=cache,target=/root/.cache/pip \
    set -eu; \
    case "$VARIANT" in \
      cpu) lock=serve.txt ;; \
      gpu) lock=serve-gpu.txt; [ -n "${CUDA_VERSION-}" ] || { echo "VARIANT=gpu needs a BASE with CUDA" >&2; exit 1; } ;; \
      *) echo "VARIANT is cpu or gpu, not $VARIANT" >&2; exit 1 ;; \
    esac; \
    python3 -m venv --without-pip /opt/inferd; \
    python3 -m venv --without-pip /build/tools; \
    python3 -m pip --python /opt/inferd/bin/python install -q --require-hashes --no-deps -r "requirements/$lock"; \
    python3 -m pip --python tools/bin/python install -q --require-hashes --no-deps -r requirements/build.txt
# Whoever builds this may have files that only they can read; the server is somebody else.
COPY models/ models/
RUN chmod -R a+rX models
COPY pyproject.toml README.md LICENSE THIRD_PARTY.md ./
COPY service/ service/
# inferd apart from what it needs: a change of the code then changes a small layer only.
RUN set -eu; \
    python3 -m pip --python tools/bin/python wheel -q --no-index --no-deps --no-build-isolation --wheel-dir wheels .; \
    python3 -m pip --python /opt/inferd/bin/python install -q --no-index --no-deps --no-warn-script-location \
      --root /build/inferd wheels/*.whl; \
    chmod -R a+rX inferd

FROM base
COPY --from=build /opt/inferd /opt/inferd
COPY --from=build /build/inferd/ /
COPY --from=build /build/models /models

ARG VARIANT=cpu
LABEL org.opencontainers.image.title="inferd" \
      org.opencontainers.image.description="Serves small neural networks over HTTP and gRPC on ONNX Runtime (${VARIANT})" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The inferd contributors" \
      org.opencontainers.image.version="0.1.0"

# Nobody from outside the container can reach a loopback address in it. Metrics have a port of their own, which is
# reached by whoever it is published to: beside the others they would be closed without a key. ONNX Runtime would tell
# its makers how it is used.
ENV PATH=/opt/inferd/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    INFERD_HOST=0.0.0.0 \
    INFERD_PORT=8000 \
    INFERD_GRPC_PORT=8001 \
    INFERD_METRICS_PORT=8002 \
    INFERD_MODELS=/models \
    INFERD_PROFILE_CACHE=/var/cache/inferd
EXPOSE 8000 8001 8002
WORKDIR /
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-m", "service.healthcheck"]
# A supervisor waits for its workers; what their libraries leave behind, and whatever is started by `exec`, tini reaps.
ENTRYPOINT ["tini", "--", "inferd"]
CMD ["serve"]
