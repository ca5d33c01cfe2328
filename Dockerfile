# syntax=docker/dockerfile:1
# One image for every process of Chronovisor (target `chronovisor`), and the same with libvirt's client
# for the agent of a real host (target `agent`).
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# Everything that is installed is fetched here, checked against its hash, and nowhere else. The pinned
# list holds the tools of development too; only what the distribution needs is installed below.
FROM ${PYTHON_IMAGE} AS wheels
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements.txt ./
RUN --mount=type=cache,target=/var/cache/pip \
    pip download --cache-dir /var/cache/pip --require-hashes --no-deps --only-binary :all: \
    --requirement requirements.txt --dest /wheels
COPY pyproject.toml LICENSE ./
COPY access access
COPY chronovisor chronovisor
COPY commands commands
COPY dwh dwh
COPY events events
COPY hostagent hostagent
COPY notifier notifier
COPY projections projections
RUN pip install --no-index --find-links /wheels --upgrade setuptools \
    && pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels .
RUN python -m venv /opt/chronovisor \
    && /opt/chronovisor/bin/pip install --no-index --find-links /wheels chronovisor

# libvirt-python compiles against libvirt's headers.
FROM wheels AS host-wheels
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libvirt-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
COPY requirements-host.txt ./
RUN pip wheel --require-hashes --no-deps --no-build-isolation \
    --requirement requirements-host.txt --wheel-dir /wheels
RUN /opt/chronovisor/bin/pip install --no-index --find-links /wheels "chronovisor[host]"

FROM ${PYTHON_IMAGE} AS chronovisor
RUN groupadd --gid 10001 chronovisor \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/chronovisor \
       --shell /usr/sbin/nologin chronovisor
# A named volume takes owner and mode from the folder that it is mounted on for the first time. The
# folder of the sockets has to be private.
RUN install --directory --owner chronovisor --group chronovisor --mode 0700 \
    /var/lib/chronovisor /var/lib/chronovisor/hosts /var/lib/chronovisor/notifier \
    /var/lib/chronovisor/run /var/lib/chronovisor/warehouse \
    /run/secrets/chronovisor/database \
    && install --directory --owner chronovisor --group chronovisor --mode 0755 \
    /run/secrets/chronovisor/postgres /run/secrets/chronovisor/grafana
COPY --from=wheels /opt/chronovisor /opt/chronovisor
# PYTHONSAFEPATH: folders of the installation bear the names of packages, and are none.
ENV PATH=/opt/chronovisor/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 \
    HOME=/tmp
USER 10001:10001
ENTRYPOINT ["chronovisor"]
CMD ["--help"]

# Root, since libvirt's system socket and the files of its VMs are root's.
FROM ${PYTHON_IMAGE} AS agent
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libvirt0 qemu-utils \
    && rm -rf /var/lib/apt/lists/*
COPY --from=host-wheels /opt/chronovisor /opt/chronovisor
ENV PATH=/opt/chronovisor/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1
ENTRYPOINT ["chronovisor"]
CMD ["agent", "--help"]
