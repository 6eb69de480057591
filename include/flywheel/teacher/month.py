"""What has been spent on the teacher in a calendar month, over a store, in a file beside the sums of runs.

Labelling spends it, the audit of production, and the endpoint's cascade. The sums of one stand there while it
is under way and are added to those of the ended ones when it ends: so a run that is killed counts, and one
that is done again counts twice, as it is paid twice. A run belongs to the month in which it began to ask. The
endpoint asks beside a run: whoever writes holds the file's lock and reads what the others have spent since.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from filelock import FileLock

from flywheel.artifacts.root import key_of
from flywheel.common.durable import put_in_place
from flywheel.common.errors import BudgetError
from flywheel.config import Config, resolve_path
from flywheel.config.store import StoreConfig
from flywheel.config.teacher import MonthBudget

_MONTHS_KEPT = 36


class MonthSpending:
    """The sums of the month that it is now, and its budget.

    Args:
        budget: of the month, over all that asks.
        path: the file of sums.
        zone: time zone of the months.
        run_id: whose sums are the caller's own.

    Attributes:
        before: the sums of others, and of earlier times of this one; as new as the last `write`.

    Raises:
        BudgetError: the file of sums cannot be read.
    """

    def __init__(self, budget: MonthBudget, path: Path, zone: str, run_id: str) -> None:
        self.budget, self.name = budget, datetime.now(ZoneInfo(zone)).strftime("%Y-%m")
        self._path, self._run_id = path, run_id
        months = self._read()
        # A run that was killed and goes on in the next month stays where it began.
        self.name = next((name for name, sums in months.items() if run_id in sums["open"]), self.name)
        self.before = self._others(months)

    def write(self, sums: dict[str, int], *, ended: bool = False) -> None:
        """Keep the run's own sums; those of one that has ended are added to the others'.

        Raises:
            BudgetError: the file of sums cannot be read.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._path}.lock"):
            months = self._read()
            there = months.setdefault(self.name, {"ended": {}, "open": {}})
            there["open"].pop(self._run_id, None)
            self.before = self._others(months)
            if ended:
                there["ended"] = dict(Counter(there["ended"]) + Counter(sums))
            else:
                there["open"][self._run_id] = sums
            aside = self._path.with_name(f"{self._path.name}.aside")
            aside.write_bytes(orjson.dumps(dict(sorted(months.items())[-_MONTHS_KEPT:])))
            put_in_place(aside, self._path)

    def _others(self, months: dict[str, dict[str, Any]]) -> Counter[str]:
        there = months.get(self.name, {"ended": {}, "open": {}})
        found = Counter(there["ended"])
        for other, sums in there["open"].items():
            if other != self._run_id:
                found.update(sums)
        return found

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found: dict[str, dict[str, Any]] = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except orjson.JSONDecodeError as error:
            raise BudgetError(
                f"{self._path}: is not what a month has spent, as JSON ({error}): nothing is asked, for "
                "teacher.month_budget cannot be kept. Remove the file to begin the month anew"
            ) from error
        return found


def month_of(config: Config, run_id: str) -> MonthSpending:
    """Return what the month has spent, and may still spend, in the time zone of the schedule.

    Raises:
        BudgetError: the file of sums cannot be read.
    """
    path = sums_file(config.store).with_suffix(".months.json")
    return MonthSpending(config.teacher.month_budget, path, config.schedule.time_zone, run_id)


def sums_file(store: StoreConfig) -> Path:
    """Return the file of what labelling into a store has spent: see `flywheel.teacher.spending`."""
    return beside_lock(store, "spent.json")


def beside_lock(store: StoreConfig, ending: str) -> Path:
    """Return the path of the lock of labelling into a store, or of what is kept beside it."""
    own = f"state/locks/label-{key_of(store.model_dump(mode='json'))}"
    return Path(resolve_path(f"{store.path}.label" if store.type == "sqlite" else own) + f".{ending}")
