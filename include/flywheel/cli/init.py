"""`flywheel init DIR`: a folder of a user's own files, which a new version of flywheel never touches."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from tempfile import mkdtemp

from flywheel.common.errors import ConfigError
from flywheel.config.loading import HOME_VARIABLE, checkout

_CONFIG = "include/config.yaml"
_WORKLOAD = "workloads/news_classifier.yaml"
_EXPERIMENTS = """\
# Experiments

Each file NAME.yaml here is an experiment of its own, the DAG `flywheel_NAME`: it holds the keys in which it
differs from the file that it extends. Nothing here, and there is that of config.yaml alone. For instance
`two_sizes.yaml`, whose client is `two_sizes` as it says no other:

```yaml
extends: ../config.yaml
schedule: {cron: "0 3 * * *"}
sizes: [500, 2000]
promotion: {within: 0.05}
```

All keys: docs/configuration.md, beside flywheel's own files.
"""
_IGNORED = "# What flywheel makes; the rest of this folder is yours.\n/state/\n/artifacts/\n"


def make_home(folder: Path) -> Path:
    """Make a folder with an experiment that runs the demo as it is, and return its absolute path.

    It appears whole or not at all.

    Args:
        folder: not there yet, or empty.

    Raises:
        ConfigError: it holds something, or cannot be written.
    """
    folder = folder.expanduser().absolute()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(
                f"{folder}: is there already, and nothing of it is written over; name a new folder"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _fill(aside)
            os.rename(aside, folder)  # also onto an empty folder
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be made: {error.strerror or error}; name another folder"
        ) from None
    return folder


def _fill(folder: Path) -> None:
    shipped = (checkout() / _CONFIG).read_text(encoding="utf-8")
    own = shipped.replace(f"include/{_WORKLOAD}", _WORKLOAD)
    (folder / "config.yaml").write_text(own, encoding="utf-8")
    for name in ("experiments", "workloads"):
        (folder / name).mkdir()
    (folder / "experiments/README.md").write_text(_EXPERIMENTS, encoding="utf-8")
    shutil.copyfile(checkout() / "include" / _WORKLOAD, folder / _WORKLOAD)
    (folder / ".gitignore").write_text(_IGNORED, encoding="utf-8")


def what_next(folder: Path) -> str:
    """Return what to do with a folder that `make_home` made, for a person at a terminal."""
    command = f"{HOME_VARIABLE}={shlex.quote(str(folder))} {shlex.quote(str(checkout() / 'flywheel'))}"
    return f"""\
{folder}
  config.yaml        the experiment: the demo as it is; change source, teacher and nims for your own
  experiments/       more experiments, one file each
  workloads/         the prompt and the classes
What runs make goes into state/ and artifacts/ beside them; flywheel's own folder is not written to.
Next:
  {command} up
  {command} doctor"""
