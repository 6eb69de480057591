#!/bin/sh
# The images that ours begin with, or run beside, by digest: what a tag means changes, a digest does not.
#
#   scripts/images.sh pin                  ask the registries what the tags below are today; written to docker/.env
#   scripts/images.sh build [PREFIX]       build PREFIXflywheel-student and PREFIXflywheel-airflow of those, tagged
#                                          with the project's version; PREFIX such as registry.example.com/team/
#
# Look at what `pin` changes (git does not see docker/.env: keep a copy where you keep your settings), then build.
set -eu
cd "$(dirname "$0")/.."
file=docker/.env

say() { printf '%s\n' "$*" >&2; }

digest() {
    if command -v skopeo >/dev/null 2>&1; then
        skopeo inspect --format '{{.Digest}}' "docker://$1"
    elif command -v crane >/dev/null 2>&1; then
        crane digest "$1"
    elif docker buildx version >/dev/null 2>&1; then
        docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$1"
    else
        say "error: to ask a registry for a digest takes skopeo, crane or docker buildx"
        exit 1
    fi
}

pin() {
    name=$1 image=$2
    found=$(digest "$image") || exit 1
    case $found in
        sha256:????????????????????????????????????????????????????????????????) ;;
        *) say "error: $image: the registry says no digest but '$found'"; exit 1 ;;
    esac
    touch "$file" && chmod 600 "$file"
    grep -v "^$name=" "$file" >"$file.aside" || true
    printf '%s=%s@%s\n' "$name" "$image" "$found" >>"$file.aside"
    chmod 600 "$file.aside" && mv "$file.aside" "$file"
    say "$name=$image@$found"
}

case ${1:-} in
    pin)
        pin PYTHON_IMAGE docker.io/library/python:3.11-slim-bookworm
        pin POSTGRES_IMAGE docker.io/library/postgres:16-alpine
        pin ELASTICSEARCH_IMAGE docker.elastic.co/elasticsearch/elasticsearch:8.19.0
        ;;
    build)
        base=$(sed -n 's/^PYTHON_IMAGE=//p' "$file" 2>/dev/null || true)
        case $base in
            *@sha256:*) ;;
            *) say "error: docker/.env names no PYTHON_IMAGE by digest: make pin-images"; exit 1 ;;
        esac
        version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
        builder=${BUILDER:-docker}
        for name in student airflow; do
            "$builder" build -f "docker/$name.Dockerfile" --build-arg "BASE=$base" \
                --build-arg "TORCH_INDEX=${TORCH_INDEX:-}" -t "${2:-}flywheel-$name:$version" .
        done
        ;;
    *)
        say "usage: scripts/images.sh pin | build [PREFIX]"
        exit 2
        ;;
esac
