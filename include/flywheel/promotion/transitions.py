"""The state machine of the champion of a workload and client: who may follow whom.

The state is (champion, hold, words that turn an adapter down); each transition is one decision with the next
number, created under a name that must be free (flywheel.artifacts.create_once). So of two that decide at once
one is first, and the other finds that the state has moved, reads it, and decides anew:

| decision    | by                           | champion after | hold after | turned down after |
|-------------|------------------------------|----------------|------------|-------------------|
| promoted    | a run, by the rules          | its choice     | none       | (*)               |
| promoted    | a person, by review or API   | the named one  | none       | (*)               |
| rolled back | a person                     | the one before | this word  | (*)               |
| rejected    | a person, in a review        | stays          | this word  | (*)               |
| lifted      | a person                     | stays          | none       | none              |
| lifted      | a yes to the one in force    | stays          | none       | (*)               |
| registered  | a run's second try           | with a version | stays      | stays             |
| lost        | who gives a damaged one up   | stays          | stays      | stays             |
| stopped     | a person                     | stays          | stays      | stays             |
| resumed     | a person                     | stays          | stays      | stays             |

Whether the champion answers at the endpoint (`Decision.stop`) only `stopped` and `resumed` change: who is
promoted while it is stopped answers nothing either.

(*) what was turned down, and what the hold before turned down, but for the adapter decided on.

What moved decides what becomes of the one that was second:

- a person's decision is taken on the new state, whatever it is: the latest word holds, and both are kept;
- a roll-back goes back from the champion that is in force by then;
- a run's promotion by the rules gives way: a hold stays, and where a person has changed the champion since
  the run was scored, its choice was not compared with that one, so it is not promoted;
- a run's second try that finds its promotion among the decisions, and a person's after it, leaves that one.

A decision is complete when its copy, `champion.json` and a person's entry in the timeline are written, too.
Who decides next, and each night, completes what a kill left out (`complete`) before anything else.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import orjson

from flywheel.artifacts.create_once import create_once, sweep_asides
from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.promotion.champion import (
    RESTORE,
    VIEW,
    Champion,
    Decision,
    Stop,
    champion_folder,
    decision_name,
    read_decision,
    read_state,
)
from flywheel.promotion.holds import Hold
from flywheel.promotion.timeline import enter_person

State = Decision | None
_TRIES = 200  # each lost to another's decision


class Decided(NamedTuple):
    """The state after an attempt to decide; `made`: by this decision, and not by others before it."""

    state: State
    made: bool


class Draft(NamedTuple):
    """What is to be decided on a state: the state after it."""

    kind: Literal["promoted", "rolled back", "rejected", "lifted", "registered", "lost", "stopped", "resumed"]
    champion: Champion | None
    hold: Hold | None
    turned_down: tuple[Hold, ...]
    stop: Stop | None = None  # of `stopped` alone


def decide(
    root: ArtifactRoot,
    workload_id: str,
    client_id: str,
    make: Callable[[State], Draft | None],
    *,
    by: str = "",
    task: str = "",
) -> Decided:
    """Take a decision on the state in force; return the state after it.

    Args:
        make: gives what to decide on a state, None for nothing; asked again where the state has moved.
        by: the person; empty: the rules.
        task: of the run whose task decides.

    Raises:
        ArtifactError: a decision is damaged, or the store cannot write on a condition.
    """
    for attempt in range(_TRIES):
        state = read_state(root, workload_id, client_id)
        complete(root, workload_id, client_id, state)
        draft = make(state)
        if draft is None:
            return Decided(state, False)
        decision = sealed(state, draft, by, task)
        path = f"{champion_folder(workload_id, client_id)}/{decision_name(decision.sequence)}"
        data = orjson.dumps(decision.model_dump(mode="json"), option=orjson.OPT_INDENT_2)
        if create_once(root, path, data) or _is_ours(root, workload_id, client_id, decision):
            complete(root, workload_id, client_id, decision)
            return Decided(decision, True)
        time.sleep(random.uniform(0, 0.002 * min(attempt, 50)))  # many at once: not all at the same moment
    raise ArtifactError(f"{root.url}/{path}: {_TRIES} times another decision came first; try again")


def complete(root: ArtifactRoot, workload_id: str, client_id: str, state: State) -> None:
    """Write what belongs to the last decision and is not there: copy, champion file, timeline's entry.

    Raises:
        ArtifactError: the champion file is of a decision that is no longer there.
    """
    if state is None:
        return
    folder = champion_folder(workload_id, client_id)
    kept = f"{folder}/{decision_name(state.sequence, 'kept')}"
    if not root.exists(kept):
        root.write_json(kept, state.model_dump(mode="json"))
        if root.is_folder:
            for place in (folder, f"{folder}/kept", f"{folder}/timeline"):
                sweep_asides(root.local_folder(place))
    if state.champion is not None and state.changed_champion and state.by and not state.task:
        enter_person(root, state)
    _show(root, workload_id, client_id, state)


def _show(root: ArtifactRoot, workload_id: str, client_id: str, state: Decision) -> None:
    """Have the champion file show the champion of the last decision."""
    path = f"{champion_folder(workload_id, client_id)}/{VIEW}"
    while state.champion is not None:
        shown = _sequence_shown(root, path)
        if shown == state.sequence:
            return
        if shown < state.sequence:
            view = {**state.champion.model_dump(mode="json"), "sequence": state.sequence}
            root.write_json(path, view)
        # Another decision may have come, and its champion been shown before ours: the last one's is to stand.
        last = read_state(root, workload_id, client_id)
        if last is None or last.sequence < max(shown, state.sequence):
            gone = decision_name(max(shown, state.sequence))
            raise ArtifactError(f"{root.url}/{path}: it is of {gone}, which is no longer there; {RESTORE}")
        if last.sequence == state.sequence or shown >= last.sequence:
            return
        state = last


def promoted(state: State, champion: Champion) -> Draft:
    """Put a champion into force."""
    return Draft("promoted", champion, None, _words(state, champion.adapter, "promotion"))


def rolled_back(state: State, champion: Champion, hold: Hold) -> Draft:
    """Put a champion there was into force again, and hold automatic promotions back."""
    return _held("rolled back", state, champion, hold)


def rejected(state: State, hold: Hold) -> Draft | None:
    """Hold automatic promotions back at a person's no; None: that very word holds already."""
    there = state.hold if state else None
    if there is not None and there.model_copy(update={"at": hold.at}) == hold:
        return None
    return _held("rejected", state, state.champion if state else None, hold)


def lifted(state: State, promoted: str | None = None) -> Draft | None:
    """End a hold, and what was turned down with it; None: nothing is held back.

    Args:
        promoted: an adapter that a person said yes to: only what is said of it is taken back.
    """
    if state is None:
        return None
    words = _words(state, promoted, "promotion") if promoted else ()
    if state.hold is None and words == state.turned_down:
        return None
    return Draft("lifted", state.champion, None, words)


def registered(state: State, champion: Champion) -> Draft | None:
    """Note the champion's version in the MLflow registry; None: it is noted, or another is in force."""
    if state is None or state.champion is None or state.champion == champion:
        return None
    if state.champion.adapter != champion.adapter:
        return None
    return Draft("registered", champion, state.hold, state.turned_down)


def stopped(state: State, by: str, comment: str) -> Draft | None:
    """Have the champion answer nothing at the endpoint; None: it is stopped already, or there is none."""
    if state is None or state.champion is None or state.stop is not None:
        return None
    stop = Stop(by=by, at=now_after(state), comment=comment)
    return Draft("stopped", state.champion, state.hold, state.turned_down, stop)


def resumed(state: State) -> Draft | None:
    """Have the champion answer again; None: it is not stopped."""
    if state is None or state.stop is None:
        return None
    return Draft("resumed", state.champion, state.hold, state.turned_down)


def _held(
    kind: Literal["rolled back", "rejected"], state: State, champion: Champion | None, hold: Hold
) -> Draft:
    there = state.hold if state else None
    if there is not None and hold.why == there.why == "rolled back":
        # Rolling back further goes to older data: what the first roll-back judged is still turned down.
        hold = hold.model_copy(update={"dataset": there.dataset})
    return Draft(kind, champion, hold, _words(state, hold.adapter, "replaced"))


def _words(state: State, adapter: str | None, ended: Literal["promotion", "replaced"]) -> tuple[Hold, ...]:
    """Return the words that go on without their hold when the state's hold ends, but for one adapter's."""
    if state is None:
        return ()
    words = [word for word in state.turned_down if word.adapter != adapter]
    if state.hold is not None and state.hold.adapter != adapter:
        words = [word for word in words if word.adapter != state.hold.adapter]
        words.append(state.hold.model_copy(update={"ended": ended, "ended_at": now_after(state)}))
    return tuple(words)


def now_after(state: State) -> str:
    """Return the time to the second, or that of the state where the clock says an earlier one."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if state is None or datetime.fromisoformat(state.at) <= datetime.fromisoformat(now):
        return now
    return state.at


def sealed(state: State, draft: Draft, by: str, task: str) -> Decision:
    """Return a draft as the decision that follows a state."""
    at, champion, hold = now_after(state), draft.champion, draft.hold
    if draft.kind in ("promoted", "rolled back") and champion is not None:
        champion = champion.model_copy(update={"promoted_at": at})
    if draft.kind in ("rolled back", "rejected") and hold is not None:
        hold = hold.model_copy(update={"at": at})
    return Decision(
        sequence=state.sequence + 1 if state else 1,
        id=uuid.uuid4().hex,
        kind=draft.kind,
        by=by,
        task=task,
        at=at,
        champion=champion,
        replaced=state.champion.adapter if state and state.champion else None,
        hold=hold,
        turned_down=draft.turned_down,
        stop=draft.stop if draft.kind in ("stopped", "resumed") else state.stop if state else None,
        previous=state.digest if state else "",
    ).sealed()


def _is_ours(root: ArtifactRoot, workload_id: str, client_id: str, decision: Decision) -> bool:
    """Return whether the name is taken by this very decision: a store's answer to it may be lost."""
    if root.is_folder:
        return False
    return read_decision(root, workload_id, client_id, decision.sequence).id == decision.id


def _sequence_shown(root: ArtifactRoot, path: str) -> int:
    """Return the number of the decision that the champion file is of; 0: it is to be written anew.

    It is a copy alone, so a damaged one is replaced.
    """
    if not root.exists(path):
        return 0
    try:
        content = root.read_json(path)
    except ArtifactError:
        return 0
    found = content.get("sequence") if isinstance(content, dict) else None
    return found if isinstance(found, int) else 0
