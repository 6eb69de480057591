"""Kill -9 at random moments of promotion, roll-back and promotion by the API, all at once on one champion.

    python -m benchmarks.kills --champion [--quick] [--kills N] [--seed N]

Three processes decide without a pause on the champion of one workload and client in a folder: the task
`promote` (by the rules and after a review, in turns), a person's roll-back and a person's promotion through
the code of the API. Before each decision their clock is put back by up to an hour, or not. One after the
other is killed at a random moment and started again. Every decision that returned to its caller is written
down by it with a word of its own; at the end each of these words must be in the champion's decisions
(`lost`: those that are not). All the time and after each kill the champion is loaded, as who serves does it:
its last decision, its copy with all digests, and `champion.json` (`broken`: times it was not whole).

MLflow and Airflow's events are stand-ins that answer at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from flywheel.artifacts.root import key_of
from flywheel.common.errors import FlywheelError
from flywheel.promotion import transitions
from flywheel.promotion.champion import Champion, RegistryEntry, champion_folder, decisions, read_state
from flywheel.promotion.timeline import Timeline
from flywheel.promotion.whole import load_champion
from flywheel.report.model import Report
from flywheel.runs.plan import Plan
from flywheel.runs.run import Run
from flywheel.stages import promote as stage
from flywheel.stages import score as score_stage
from flywheel.stages.score import ScoreResult, score
from flywheel.web import airflow_actions
from flywheel.web import promotion as api
from flywheel.web.problems import Problem

OWN = ("news_classifier", "default")
KINDS = ("promotion", "task", "roll_back")
ADAPTERS = 12
BACK = (0, 0, 60, 3600)  # seconds that the clock is put back by
SHORTEST, LONGEST = 0.002, 0.6  # seconds between kills; a decision takes 10 to 100 ms


class Clock(datetime):
    """Says another time from decision to decision."""

    back = 0

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        """Return the time, put back."""
        return datetime.now(tz) - timedelta(seconds=cls.back)


class User:
    """A person at the API."""

    def get_id(self) -> str:
        """Return the person's id."""
        return "7"

    def get_name(self) -> str:
        """Return the person's name."""
        return "Ada"


class Desk:
    """A champion's place with a scored run in it, of which copies decide.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        from tests.unit.finished_run import config_of, finish, plan_of

        self.folder = folder
        self.config = config_of(str(folder / "artifacts"), f"sqlite:///{folder}/mlflow.db")
        (folder / "config.yaml").write_text(yaml.safe_dump(self.config.model_dump(mode="json")))
        os.environ |= {
            "FLYWHEEL_CONFIG": str(folder / "config.yaml"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        run = finish(plan_of(self.config, "first", 2))
        self.root = run.root
        self.scored: ScoreResult = score(run.plan, folder_of(run), score_stage.gather(run))
        self.plan, self.report = run.plan, Report.read(folder_of(run))
        self.adapters = [key_of("kills", number) for number in range(ADAPTERS)]
        for key in self.adapters:
            with self.root.build("adapters", key) as made:
                (made / "adapter_config.json").write_text(
                    json.dumps({"base_model_name_or_path": str(folder)})
                )
                (made / "adapter_model.safetensors").write_bytes(os.urandom(200_000))

    def copy(self, run_id: str, approval: str) -> tuple[Plan, Report, Path]:
        """Return another scored run whose choice is one of the adapters; it was scored just now."""
        plan = self.plan.model_copy(
            update={"run_id": run_id, "approval": approval, "cutoff": int(time.monotonic() * 1000)}
        )
        report, adapter = self.report.model_copy(deep=True), random.choice(self.adapters)
        state = read_state(self.root, *OWN)
        report.decision.sequence = state.sequence if state else 0
        report.decision.doubts = []
        choice = report.decision.choice
        assert choice is not None
        row = report.candidate(choice.student, choice.size)
        assert row is not None
        choice.adapter = row.adapter = adapter
        run = Run(self.root, run_id)
        folder = folder_of(run)
        folder.mkdir(parents=True)
        self.root.write_json(f"{run.path}/plan.json", plan.model_dump(mode="json"))
        self.root.write_json(f"{run.path}/report.json", report.model_dump(mode="json"))
        return plan, report, folder

    def task(self, word: str) -> bool:
        """Promote a run's choice as its task does, at a person's word in every second one."""
        approval = random.choice(["automatic", "human"])
        plan, _, folder = self.copy(word, approval)
        by = "ann" if approval == "human" else ""
        return stage.promote(plan, folder, self.scored, comment=word, by=by).promoted

    def roll_back(self, word: str) -> bool:
        """Roll the champion back at a person's word; there may be none to go back to."""
        try:
            api.roll_back(User(), self.root, *OWN, word)
        except Problem:
            return False
        return True

    def promotion(self, word: str) -> bool:
        """Promote another run's candidate at a person's word."""
        plan, report, _ = self.copy(word, "human")
        choice = report.decision.choice
        assert choice is not None
        champion, _ = api.promote(User(), plan, report, choice.student, choice.size, word)
        return champion.comment == word


def folder_of(run: Run) -> Path:
    """Return a run's folder on this machine."""
    return run.root.local_folder(run.path)


def start(desk: Desk, kind: str, told: Path) -> int:
    """Start a process that decides until it is killed; return its id."""
    child = os.fork()
    if child:
        return child
    try:
        random.seed(f"{kind} {os.getpid()}")
        decide: Callable[[str], bool] = getattr(desk, kind)
        file = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number in range(1 << 30):
            word = f"{kind}-{os.getpid()}-{number}"
            Clock.back = random.choice(BACK)
            if decide(word):
                os.write(file, f"{word}\n".encode())
    except BaseException as error:
        os.write(2, f"{kind}: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(1)


def is_whole(desk: Desk) -> bool:
    """Return whether the champion can be loaded, and what is served is a whole one."""
    try:
        loaded = load_champion(desk.root, *OWN)
        if loaded is None:
            return True
        view = f"{champion_folder(*OWN)}/champion.json"
        if not desk.root.exists(view):  # the moment before the first is there
            return read_state(desk.root, *OWN) is not None
        Champion.model_validate(desk.root.read_json(view))
    except (FlywheelError, ValueError, OSError) as error:
        print(f"broken: {error}", file=sys.stderr)
        return False
    return True


def measure(desk: Desk, kills: int) -> dict[str, Any]:
    """Kill so many times; return what became of it."""
    told = desk.folder / "told"
    for kind in KINDS:  # with all imports done, so that those who are started decide at once
        getattr(desk, kind)(f"before {kind}")
    kinds = {start(desk, kind, told): kind for kind in KINDS}
    reads, broken, died, started = 0, 0, 0, time.monotonic()
    for _ in range(kills):
        until = time.monotonic() + random.uniform(SHORTEST, LONGEST)
        while time.monotonic() < until:
            reads, broken = reads + 1, broken + (not is_whole(desk))
            time.sleep(0.02)  # the machine is theirs
        child = random.choice(list(kinds))
        kind = kinds.pop(child)
        os.kill(child, signal.SIGKILL)
        died += os.waitpid(child, 0)[1] != signal.SIGKILL  # it had ended by an error of its own
        reads, broken = reads + 1, broken + (not is_whole(desk))
        kinds[start(desk, kind, told)] = kind
    for child in kinds:
        os.kill(child, signal.SIGKILL)
        died += os.waitpid(child, 0)[1] != signal.SIGKILL
    seconds = time.monotonic() - started
    desk.promotion("the last word")  # completes what the last kill left out
    return {
        "reads": reads,
        "broken": broken,
        "died": died,
        "seconds": round(seconds, 1),
        **_count(desk, told),
    }


def _count(desk: Desk, told: Path) -> dict[str, Any]:
    """Count what was decided, and what of it is lost."""
    there = decisions(desk.root, *OWN)
    words = [one.champion.comment for one in there if one.champion and one.changed_champion]
    returned = told.read_text().split()
    persons = [one.sequence for one in there if one.by and not one.task and one.changed_champion]
    entered = {entry.sequence for entry in Timeline(desk.root, *OWN).entries() if entry.kind == "person"}
    view = desk.root.read_json(f"{champion_folder(*OWN)}/champion.json")
    of = {kind: sum(word.startswith(kind) for word in returned) for kind in KINDS}
    return {
        "decisions": len(there),
        "returned": len(returned),
        "returned_of": of,
        "lost": len(set(returned) - set(words)),
        "twice": len(words) - len(set(words)),
        "not_in_timeline": len(set(persons) - entered),
        "times_in_order": [one.at for one in there] == sorted(one.at for one in there),
        "shown_is_last": view["sequence"] == there[-1].sequence,
    }


def _stand_ins() -> None:
    """Have MLflow and Airflow's events answer at once, and the clock say what it is told to."""
    entry = RegistryEntry(model="m", version="1")
    for module in (stage, api):
        module.register = lambda *_: entry  # type: ignore[attr-defined]
        module.point_alias = lambda *_: None  # type: ignore[attr-defined]
    airflow_actions.tell_of_champion = lambda *_: None  # type: ignore[assignment]
    score_stage.draw_png = lambda *_: None  # type: ignore[attr-defined]
    score_stage.track = lambda *_: None  # type: ignore[attr-defined, assignment]
    transitions.datetime = Clock  # type: ignore[misc]


def main() -> None:
    """Measure, and print one JSON object; end with 1 where anything is lost or was ever broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--champion", action="store_true", required=True, help="kill who decides on a champion"
    )
    parser.add_argument("--quick", action="store_true", help="10 kills")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    kills = 10 if arguments.quick else arguments.kills
    logging.disable(logging.CRITICAL)  # all three would say each decision
    _stand_ins()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Desk(Path(folder)), kills)
    load = os.getloadavg()[0]
    about = {"kills": kills, "when": datetime.now(UTC).isoformat(timespec="seconds"), "load": round(load, 1)}
    print(json.dumps({**about, "machine": platform.machine(), **result}, indent=1))
    bad = ("lost", "broken", "died", "twice", "not_in_timeline")
    is_right = not any(result[key] for key in bad) and result["times_in_order"] and result["shown_is_last"]
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
