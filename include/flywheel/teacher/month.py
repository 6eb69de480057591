"""What all runs into a store have spent in a calendar month, kept in a file beside the sums of runs.

A run's sums stand there while it is under way and are added to those of ended runs when it ends: so a run
that is killed counts, and one that is done again counts twice, as it is paid twice. A run belongs to the
month in which it began to ask. One process writes at a time: it holds the lock of labelling into the store.
"""

from __future__ import annotations

import os
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from flywheel.config.teacher import MonthBudget

_MONTHS_KEPT = 36


class MonthSpending:
    """The sums of the month that it is now, and its budget.

    Args:
        budget: of the month, over all runs into the store.
        path: the file of sums.
        zone: time zone of the months.
        run_id: whose sums are the caller's own.

    Attributes:
        before: the sums of other runs, and of earlier times of this one.
    """

    def __init__(self, budget: MonthBudget, path: Path, zone: str, run_id: str) -> None:
        self.budget, self.name = budget, datetime.now(ZoneInfo(zone)).strftime("%Y-%m")
        self._path, self._run_id = path, run_id
        months = self._read()
        # A run that was killed and goes on in the next month stays where it began.
        self.name = next((name for name, sums in months.items() if run_id in sums["open"]), self.name)
        there = months.get(self.name, {"ended": {}, "open": {}})
        self.before: Counter[str] = Counter(there["ended"])
        for other, sums in there["open"].items():
            if other != run_id:
                self.before.update(sums)

    def write(self, sums: dict[str, int], *, ended: bool = False) -> None:
        """Keep the run's own sums; those of one that has ended are added to the others'."""
        months = self._read()
        there = months.setdefault(self.name, {"ended": {}, "open": {}})
        there["open"].pop(self._run_id, None)
        if ended:
            there["ended"] = dict(Counter(there["ended"]) + Counter(sums))
        else:
            there["open"][self._run_id] = sums
        aside = self._path.with_name(f"{self._path.name}.aside")
        aside.write_bytes(orjson.dumps(dict(sorted(months.items())[-_MONTHS_KEPT:])))
        os.replace(aside, self._path)

    def _read(self) -> dict[str, dict[str, Any]]:
        return orjson.loads(self._path.read_bytes()) if self._path.exists() else {}
