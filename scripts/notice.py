"""Write NOTICE: what flywheel is installed with, under which licences (`make notice`). `--check` compares.

Python's packages are those of the locks that a deployment installs, with the licences that their metadata
declare in the environment this runs in (`make install-dev` installs all of them); the page's are those of
ui/package-lock.json that are not for development alone. Versions are in the locks and in the SBOM.
"""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
LOCKS = (
    "requirements.txt",
    "requirements-students.txt",
    "requirements-s3.txt",
    "requirements-nemo.txt",
    "requirements-cluster.txt",
)
HEAD = """\
flywheel
Copyright 2026 The flywheel authors

Licensed under the Apache License, Version 2.0: see LICENSE.

The results page (plugins/flywheel_results) is a bundle that contains the packages of "In the results page"
below; a deployment installs, and its images contain, those of "Python". Each keeps its own copyright and
licence, whose text is in its distribution (for Python: NAME.dist-info). The identifiers are those that the
packages declare; made by scripts/notice.py (`make notice`).
"""
# Libraries of CUDA, which Linux builds of torch ask for.
_NVIDIA = re.compile(r"^(nvidia-|cuda-)")
_CLASSIFIER = "License :: OSI Approved :: "
# What packages write where an SPDX identifier is meant.
_SPDX = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "bsd license": "BSD",
    "bsd": "BSD",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "modified bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "the mit license (mit)": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0",
    "gnu library or lesser general public license (lgpl)": "LGPL",
}


def python_names() -> list[str]:
    """Return the names of all packages of the locks."""
    pinned = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==", re.MULTILINE)
    found = {name for lock in LOCKS for name in pinned.findall((PROJECT / lock).read_text())}
    return sorted(found, key=str.lower)


def licence_of(name: str) -> str:
    """Return the licence that an installed package declares."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return "NVIDIA's own, see its distribution" if _NVIDIA.match(name) else ""
    if expression := about.get("License-Expression"):
        return str(expression)
    classified = [
        entry.removeprefix(_CLASSIFIER)
        for entry in about.get_all("Classifier") or ()
        if entry.startswith(_CLASSIFIER)
    ]
    declared = (about.get("License") or "").strip().splitlines()
    if (
        declared
        and declared[0] != "UNKNOWN"
        and len(declared[0]) <= 60
        and (len(declared) == 1 or not classified)
    ):
        return _SPDX.get(declared[0].lower(), declared[0])
    return " AND ".join(_SPDX.get(entry.lower(), entry) for entry in classified) or "see its distribution"


def page_licences() -> dict[str, str]:
    """Return the licences of the packages in the results page's bundle, by name."""
    lock = json.loads((PROJECT / "ui/package-lock.json").read_text())
    return {
        path.rpartition("node_modules/")[2]: str(entry.get("license", "see its distribution"))
        for path, entry in sorted(lock["packages"].items())
        if path and not entry.get("dev") and not entry.get("optional")
    }


def known(text: str) -> dict[str, str]:
    """Return the licences that a NOTICE names, by package."""
    return dict(re.findall(r"^- ([^:\n]+): (.+)$", text, re.MULTILINE))


def notice(before: str) -> str:
    """Return the text of NOTICE; of a package that is not installed here (another platform's) it stays."""
    old = known(before)
    lines = [HEAD, "## Python", ""]
    for name in python_names():
        lines.append(f"- {name}: {licence_of(name) or old.get(name) or 'see its distribution'}")
    lines += ["", "## In the results page", ""]
    lines += [f"- {name}: {licence}" for name, licence in page_licences().items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write NOTICE, or say which packages it lacks or has too many of."""
    file = PROJECT / "NOTICE"
    before = file.read_text() if file.exists() else ""
    if "--check" not in sys.argv:
        file.write_text(notice(before))
        return 0
    wanted = {*python_names(), *page_licences()}
    wrong = sorted(wanted ^ set(known(before)))
    if wrong:
        sys.stderr.write(f"NOTICE is not of these locks ({', '.join(wrong)}): run `make notice`\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
