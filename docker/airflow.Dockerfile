# Airflow with flywheel's DAG and plugins, as scheduler, triggerer, dag-processor or api-server.
#
#   make pin-images images                                         (BUILDER=buildah for another builder)
#   docker build -f docker/airflow.Dockerfile --build-arg BASE=IMAGE@sha256:... -t flywheel-airflow:0.2.0 .
#
#   BASE           any Debian-like image with Python 3.11 or newer and its venv module, by digest
#   STUDENT_IMAGE  only for the target single-host, where jobs run beside Airflow and not in pods:
#                  docker build --target single-host --build-arg STUDENT_IMAGE=flywheel-student:0.2.0 ...
ARG BASE
ARG STUDENT_IMAGE=flywheel-student:0.2.0

# The installer is there while it works, and not in the image: no second stage has to copy gigabytes from this one,
# nor mount another, which buildah 1.28 forgets where that comes from its cache.
FROM ${BASE} AS libraries
# Of the builder alone, where its network wants them: a package index, a bundle of certificates.
ARG PIP_INDEX_URL
ARG PIP_CERT
ARG UV_DEFAULT_INDEX
ARG SSL_CERT_FILE
# 0 where the builder mounts a cache of uv's at /root/.cache/uv.
ARG UV_NO_CACHE=1
COPY requirements-uv.txt requirements-cluster.txt /opt/locks/
RUN set -eu; \
    python3 -m venv /tmp/uv; \
    /tmp/uv/bin/python -m pip install --quiet --no-cache-dir --require-hashes -r /opt/locks/requirements-uv.txt; \
    export PATH=/tmp/uv/bin:$PATH VIRTUAL_ENV=/opt/venv UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy; \
    uv venv --quiet --python python3 /opt/venv; \
    uv pip install --no-deps --require-hashes -r /opt/locks/requirements-cluster.txt; \
    rm -rf /tmp/uv; \
    printf '#!/opt/venv/bin/python\nfrom flywheel.cli.main import main\n\nmain()\n' > /opt/venv/bin/flywheel; \
    chmod 755 /opt/venv/bin/flywheel

FROM ${BASE} AS code
COPY dags /opt/flywheel/dags
COPY plugins /opt/flywheel/plugins
COPY include /opt/flywheel/include
RUN python3 -m compileall -q /opt/flywheel && mkdir -p /opt/airflow/logs /opt/flywheel/artifacts /opt/flywheel/state \
    && echo 'flywheel:x:10001:0::/opt/airflow:/usr/sbin/nologin' >> /etc/passwd

FROM libraries AS airflow
COPY --from=code /etc/passwd /etc/passwd
COPY --from=code --chown=10001:0 /opt/airflow /opt/airflow
COPY --from=code --chown=10001:0 /opt/flywheel /opt/flywheel
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/flywheel/include PYTHONUNBUFFERED=1 \
    FLYWHEEL_HOME=/opt/flywheel HOME=/opt/airflow AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/flywheel/dags \
    AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST='[{"name": "dags-folder", "classpath": "flywheel.orchestration.bundle.ExperimentsBundle", "kwargs": {}}]' \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/flywheel/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False
WORKDIR /opt/flywheel
USER 10001:0
CMD ["airflow", "version"]

# One host, no cluster: the students' libraries come along, in an environment of their own.
FROM ${STUDENT_IMAGE} AS students
FROM airflow AS single-host
COPY --from=students /opt/venv /opt/students

FROM airflow
