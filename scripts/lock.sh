#!/bin/sh
# Compile the requirements files from pyproject.toml: pinned, hashed, without addresses of package indexes.
# All come from one resolution (the development one), so that they install side by side.
#   scripts/lock.sh [--upgrade]
set -eu
cd "$(dirname "$0")/.."
uv=.tools/bin/uv
[ -x "$uv" ] || uv=uv
compile() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        --no-emit-index-url --no-emit-find-links "$@"
}
compile pyproject.toml --extra dev -o requirements-dev.txt "$@"
compile pyproject.toml --extra orchestrator -c requirements-dev.txt -o requirements.txt
compile pyproject.toml --extra students -c requirements-dev.txt -o requirements-students.txt
compile pyproject.toml --extra s3 -c requirements-dev.txt -o requirements-s3.txt
compile pyproject.toml --extra nemo -c requirements-dev.txt -o requirements-nemo.txt
compile pyproject.toml --extra orchestrator --extra postgres --extra s3 -c requirements-dev.txt -o requirements-cluster.txt
echo 'uv' | compile - -c requirements-dev.txt -o requirements-uv.txt
