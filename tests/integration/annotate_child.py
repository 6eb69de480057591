"""Labels a span in one process, in small row groups, so that a kill falls between two of them: CONFIG FROM TO."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from flywheel.annotation import shard, spread
from flywheel.annotation.work import finish_work, plan_work, run_here
from flywheel.common.errors import FlywheelError
from flywheel.config import load_config


def main(config: str, start: str, end: str) -> int:
    """Label a span; return the exit code."""
    shard.ROW_GROUP = spread.ROW_GROUP = 50
    times = (datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (start, end))
    try:
        work = plan_work(load_config(Path(config)), *times)
        run_here(work)
        finish_work(work)
    except FlywheelError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
