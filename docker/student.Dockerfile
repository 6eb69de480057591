# What a customization or evaluation job needs, and the endpoint: torch, transformers, peft and flywheel. No Airflow in it.
#
#   make pin-images images                                         (BUILDER=buildah for another builder)
#   docker build -f docker/student.Dockerfile --build-arg BASE=IMAGE@sha256:... -t flywheel-student:0.2.0 .
#
#   BASE         any Debian-like image with Python 3.11 or newer and its venv module, by digest
#   TORCH_INDEX  take torch from that index, such as one with CPU-only builds (0.9 GB instead of 5.3 GB);
#                its hashes are in requirements-torch-index.txt (make lock-torch)
#
# The libraries are one layer that changes with the locks alone; flywheel's code is a layer of some megabytes.
ARG BASE

# The installer is there while it works, and not in the image: no second stage has to copy gigabytes from this one,
# nor mount another, which buildah 1.28 forgets where that comes from its cache.
FROM ${BASE} AS libraries
# Of the builder alone, where its network wants them: a package index, a bundle of certificates.
ARG PIP_INDEX_URL
ARG PIP_CERT
ARG TORCH_INDEX=""
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
# 0 where the builder mounts a cache of uv's at /root/.cache/uv.
ARG UV_NO_CACHE=1
COPY requirements-uv.txt requirements-students.txt requirements-serving.txt requirements-s3.txt requirements-torch-index.tx[t] /opt/locks/
# With TORCH_INDEX: torch from there, and the lock without it and the CUDA libraries of its other build.
RUN set -eu; \
    python3 -m venv /tmp/uv; \
    /tmp/uv/bin/python -m pip install --quiet --no-cache-dir --require-hashes -r /opt/locks/requirements-uv.txt; \
    export PATH=/tmp/uv/bin:$PATH VIRTUAL_ENV=/opt/venv UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy; \
    uv venv --quiet --python python3 /opt/venv; \
    lock=/opt/locks/requirements-students.txt; \
    if [ -n "$TORCH_INDEX" ]; then \
        uv pip install --no-deps --require-hashes --default-index "$TORCH_INDEX" -r /opt/locks/requirements-torch-index.txt; \
        awk '/^[A-Za-z0-9]/ { skip = /^(torch|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)(\[.*\])?==/ } !skip' $lock > /tmp/rest.txt; \
        lock=/tmp/rest.txt; \
    fi; \
    uv pip install --no-deps --require-hashes -r $lock; \
    uv pip install --no-deps --require-hashes -r /opt/locks/requirements-serving.txt; \
    uv pip install --no-deps --require-hashes -r /opt/locks/requirements-s3.txt; \
    rm -rf /tmp/rest.txt /tmp/uv; \
    printf '#!/opt/venv/bin/python\nfrom flywheel.cli.main import main\n\nmain()\n' > /opt/venv/bin/flywheel; \
    chmod 755 /opt/venv/bin/flywheel

# Compiled ahead: the root file system is read-only where the image runs.
FROM ${BASE} AS code
COPY include /opt/flywheel/include
RUN python3 -m compileall -q /opt/flywheel/include && mkdir -p /opt/home /opt/flywheel/artifacts \
    && echo 'flywheel:x:10001:10001::/home/flywheel:/usr/sbin/nologin' >> /etc/passwd

FROM libraries
COPY --from=code /etc/passwd /etc/passwd
COPY --from=code --chown=10001:10001 /opt/home /home/flywheel
COPY --from=code --chown=10001:10001 /opt/flywheel /opt/flywheel
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/flywheel/include PYTHONUNBUFFERED=1 \
    FLYWHEEL_HOME=/opt/flywheel HOME=/home/flywheel
WORKDIR /opt/flywheel
USER 10001:10001
ENTRYPOINT ["flywheel"]
CMD ["--help"]
