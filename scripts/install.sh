#!/bin/sh
# Install locked requirements, and the project itself, into .venv.   scripts/install.sh LOCK...
# With --uv in place of locks: fetch the installer alone, into .tools.
# Needs python3 (3.11 or newer), nothing else; root or not.
set -eu
cd "$(dirname "$0")/.."
. scripts/environment.sh
PYTHON=${PYTHON:-python3}
TORCH_INDEX=${TORCH_INDEX:-}

say() { printf '%s\n' "$*" >&2; }

# Another index has other builds of torch, with other hashes: they have a lock of their own.
if [ "${1:-}" != --uv ] && [ -n "$TORCH_INDEX" ] && grep -q '^torch==' "$@" && [ ! -f requirements-torch-index.txt ]; then
    say "error: TORCH_INDEX needs the hashes of its torch: make lock-torch TORCH_INDEX=$TORCH_INDEX"
    say "       (writes requirements-torch-index.txt; look at it, and keep it with your settings)"
    exit 1
fi

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    say "error: flywheel needs Python 3.11 or newer as '$PYTHON'; name another: make run PYTHON=/path/to/python3.11"
    exit 1
}

# What comes, and whether there is room: a disk that is full in the middle says less.
case " $* " in
    " --uv ") what="" need=0 ;;
    *" requirements-students.txt "*) what="Airflow, torch and the libraries of students, 6 GB with CUDA (2 GB without)" need=7 ;;
    *" requirements-dev.txt "*) what="linters, type checker and test libraries, 1 GB" need=2 ;;
    *) what="" need=1 ;;
esac
[ -z "$what" ] || say "To install: $what; a package index that pip knows is asked."
free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
[ "$free" -ge "$need" ] || say "warning: $free GB free in $(pwd), $need GB are needed; free some, or move the project"

find_uv() {
    uv=.tools/bin/uv
    [ -x "$uv" ] && return
    say "Fetching uv, the installer ..."
    # Debian keeps pip and ensurepip in packages of their own; whichever is there will do.
    if "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
        "$PYTHON" -m venv .tools
        .tools/bin/python -m pip install --quiet --require-hashes -r requirements-uv.txt
    elif "$PYTHON" -m pip --version >/dev/null 2>&1; then
        "$PYTHON" -m venv --without-pip .tools
        "$PYTHON" -m pip --python .tools/bin/python install --quiet --require-hashes -r requirements-uv.txt
    elif command -v uv >/dev/null 2>&1; then
        uv=uv
    elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "Installing python3-venv, which this Python lacks ..."
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
        find_uv
    else
        say "error: this Python has neither pip nor venv: sudo apt-get install python3-venv"
        exit 1
    fi
}
find_uv
[ "${1:-}" != --uv ] || exit 0

[ -x .venv/bin/python ] || "$uv" venv --quiet --python "$PYTHON" .venv

# Bytecode at install: importing torch, transformers and peft then takes 6.5 s instead of 10.7 s.
install() { UV_COMPILE_BYTECODE=1 "$uv" pip install --python .venv/bin/python --no-deps "$@"; }

for lock in "$@"; do
    say "Installing $lock ..."
    if [ -n "$TORCH_INDEX" ] && grep -q '^torch==' "$lock"; then
        install --quiet --require-hashes --default-index "$TORCH_INDEX" -r requirements-torch-index.txt
        # The lock without torch and the CUDA libraries that only its CUDA build asks for.
        awk '/^[A-Za-z0-9]/ { skip = /^(torch|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)(\[.*\])?==/ } !skip' \
            "$lock" > .venv/without-torch.txt
        lock=.venv/without-torch.txt
    fi
    install --quiet --require-hashes -r "$lock"
done
install --quiet --no-build-isolation --editable .
# Where the package is, from the folder of the file: a whole path with a letter outside ASCII would keep Python from
# starting at all under LC_ALL=C, and a project that is moved goes on.
for link in .venv/lib/python3*/site-packages/__editable__.flywheel-*.pth; do echo ../../../../include > "$link"; done
# So is flywheel itself where nobody may write beside it: a checkout that is read-only.
.venv/bin/python -m compileall -q include dags plugins
