"""`flywheel customize SPEC`, `evaluate SPEC`, `annotate-shard SPEC`: the same in a process, a pod, by hand.

SPEC is JSON in the artifact root, `X.spec.json`; the result is written beside it, as `X.json`, whole; while
the job runs, `X.progress.json` says how far it is.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, FlywheelError, JobError, StudentError
from flywheel.common.redaction import clean, install
from flywheel.config.logs import log_to_stderr, use_level
from flywheel.jobs.progress import PROGRESS_SUFFIX, ProgressFile
from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
from flywheel.jobs.used import Meter
from flywheel.runtimes.base import CRASHED, GRACE_SECONDS, REFUSED
from flywheel.stages.upgrade import refuse_newer

log = logging.getLogger(__name__)

SPEC_SUFFIX = ".spec.json"

# The number of a file descriptor whose other end the runtime holds: it reads as ended when the runtime is
# gone, however it went, and the job then ends itself.
LIFELINE_VARIABLE = "FLYWHEEL_LIFELINE"


def main(arguments: list[str]) -> int:
    """Run a job, given the arguments of `flywheel`, and return its exit code."""
    kind, spec = arguments
    gc.disable()  # what is imported stays: see students.loading, which enables it
    _end_on_sigterm()
    install()
    log_to_stderr("INFO")
    try:
        run_job(kind, spec, own_level=True)
    except FlywheelError as error:
        sys.stderr.write(f"error: {error}\n")
        return CRASHED if isinstance(error, JobError) else REFUSED  # a stopped job may be run again
    except Exception as error:
        sys.stderr.write(clean(f"{traceback.format_exc()}error: {type(error).__name__}: {error}\n"))
        return CRASHED
    return 0


def is_done(kind: str, spec: str) -> bool:
    """Return whether what the job would make is there already: `run_job` then only reads it, in no time."""
    folder, name = _split(spec)
    asked = folder.read_json(name)
    try:
        if kind == "customize":
            job = CustomizeSpec.model_validate(asked)
            if job.is_open:
                from flywheel.stages.prompt_choice import chosen_form

                form = chosen_form(job)
                if form is None:
                    return False
                job = job.with_prompt(form)
            key, made = job.key, "adapters"
        elif kind == "annotate-shard":
            return False  # its task has looked
        else:
            key, made = EvaluateSpec.model_validate(asked).key, "evaluations"
    except StudentError:
        return False  # the weights are not on this machine: where the job runs they may be
    return ArtifactRoot(asked["artifact_root"]).lookup(made, key) is not None


def run_job(kind: str, spec: str, *, own_level: bool = False) -> None:
    """Do what SPEC asks for and write the result beside it.

    Args:
        kind: customize or evaluate.
        spec: path or URL of the job's `.spec.json`.
        own_level: log as SPEC says, in a process of its own; else as the caller does.

    Raises:
        FlywheelError: the job cannot be done as it was asked for.
    """
    hold_lifeline()
    started_at, meter = time.time(), Meter()
    folder, name = _split(spec)
    asked = folder.read_json(name)
    if own_level:
        use_level(asked.get("log_level", "INFO"))
    refuse_newer(ArtifactRoot(asked["artifact_root"]))  # an image may be older than who plans its jobs
    base = name.removesuffix(SPEC_SUFFIX)
    progress = ProgressFile(folder, base + PROGRESS_SUFFIX)
    if kind == "customize":
        from flywheel.stages.customize import customize

        result = customize(CustomizeSpec.model_validate(asked), progress).model_dump(mode="json")
    elif kind == "evaluate":
        from flywheel.stages.evaluate import evaluate

        result = evaluate(EvaluateSpec.model_validate(asked), progress).model_dump(mode="json")
    elif kind == "annotate-shard":
        from flywheel.annotation.job import annotate

        result = annotate(asked, progress).model_dump(mode="json")
    else:
        raise JobError(f"{kind!r}: no such job; expected customize, evaluate or annotate-shard")
    on_gpu = result.get("device", "cpu") != "cpu"
    gpus = max(1, asked.get("student", {}).get("gpus", 1)) if on_gpu else 0
    used = meter.used(gpus).model_dump(mode="json")
    value = {"result": result, "started_at": started_at, "ended_at": time.time(), "used": used}
    folder.write_json(f"{base}.json", value)
    progress.discard()


def _split(spec: str) -> tuple[ArtifactRoot, str]:
    """Return the folder of a spec, as a root of its own, and the spec's name in it."""
    if not spec.endswith(SPEC_SUFFIX):
        raise ArtifactError(f"{spec}: expected the path or URL of a file that ends in {SPEC_SUFFIX}")
    full = spec if "://" in spec else str(Path(spec).resolve())
    folder, _, name = full.rpartition("/")
    return ArtifactRoot(folder), name


def _end_on_sigterm() -> None:
    """End at SIGTERM, with clean-up: the first process of a container would not even notice it."""
    with suppress(ValueError):  # not in the main thread: whoever has that one decides
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def hold_lifeline() -> None:
    """End this process group as soon as the runtime that started it is gone."""
    number = os.environ.pop(LIFELINE_VARIABLE, "")
    if not number:
        return

    def watch() -> None:
        os.read(int(number), 1)
        os.killpg(0, signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
