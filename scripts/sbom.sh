#!/bin/sh
# Write what each installation consists of, as CycloneDX (JSON) with the hashes of the locks: build/sbom/*.cdx.json
#   scripts/sbom.sh [FOLDER]
# Python by cyclonedx-py (requirements-dev.txt), the results page by npm where it is there.
set -eu
cd "$(dirname "$0")/.."
out=${1:-build/sbom}
mkdir -p "$out"
for lock in requirements.txt requirements-students.txt requirements-serving.txt requirements-s3.txt requirements-nemo.txt requirements-cluster.txt; do
    name=$(basename "$lock" .txt)
    .venv/bin/python -W ignore -m cyclonedx_py requirements "$lock" --pyproject pyproject.toml \
        --output-reproducible --output-format JSON --output-file "$out/$name.cdx.json"
done
if command -v npm >/dev/null 2>&1; then
    (cd ui && npm sbom --package-lock-only --omit dev --sbom-format cyclonedx --sbom-type application) >"$out/results-page.cdx.json"
else
    printf '%s\n' "no npm here: the SBOM of the results page is left out" >&2
fi
ls "$out"
