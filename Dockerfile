# The sidecar in an image of its own, small and without root.
#
# The sidecar has to share folders, process ids and a Unix socket with Navigator, and Navigator runs its commands: see
# "A container of its own" in docs/install.md. Where both are in one image,
# as on Fly.io, copy /opt/sidecar from the stage `build` instead: see fly/README.md. For that, RELEASE must be the
# Debian release of the image that it is copied to, because the environment uses that release's /usr/bin/python3.
ARG RELEASE=bookworm

FROM debian:${RELEASE}-slim AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-pip python3-venv
WORKDIR /src

# First what changes seldom. The lock files name every package, with digests; nothing else is installed.
COPY requirements-build.lock requirements.lock ./
RUN python3 -m venv /opt/build \
 && /opt/build/bin/python -m pip install --no-cache-dir --require-hashes --requirement requirements-build.lock
# Without pip in it the environment is smaller, and nothing can be installed into it later.
RUN python3 -m venv --without-pip /opt/sidecar \
 && python3 -m pip --python /opt/sidecar/bin/python install --no-cache-dir --no-compile --only-binary :all: \
    --require-hashes --requirement requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY completion completion
COPY docs docs
COPY monitoring monitoring
COPY sidecar sidecar
RUN /opt/build/bin/hatchling build -t wheel -d /dist \
 && python3 -m pip --python /opt/sidecar/bin/python install --no-cache-dir --no-compile --no-index --no-deps \
    /dist/*.whl \
 && python3 -m compileall -q -j 0 /opt/sidecar/lib

FROM debian:${RELEASE}-slim
# python3 is the environment's interpreter, and the forwarder's; certificates are for probes over https.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 10001 sidecar \
 && useradd --system --uid 10001 --gid sidecar --home-dir /var/lib/sidecar --shell /usr/sbin/nologin sidecar \
 && install -d -o sidecar -g sidecar -m 0750 /run/sidecar /var/lib/sidecar /etc/sidecar
COPY --from=build /opt/sidecar /opt/sidecar
ENV PATH=/opt/sidecar/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME /var/lib/sidecar
# With SIDECAR_LISTEN_HOST=0.0.0.0; by itself the daemon listens on the container's loopback.
EXPOSE 9292
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s \
  CMD ["sidecar", "status", "--alive"]
ENTRYPOINT ["sidecar"]
CMD ["serve"]
