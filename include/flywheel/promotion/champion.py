"""The champion of a workload and client: what is in production, and each decision that led there.

    champions/<workload>/<client>/decisions/<sequence>.json     each decision, with the state after it
    champions/<workload>/<client>/kept/<sequence>.json          the same once more, to restore it from
    champions/<workload>/<client>/champion.json                 the champion in force, for whoever serves
    champions/<workload>/<client>/whole/<key>/      what a champion consists of: flywheel.promotion.whole
    champions/<workload>/<client>/timeline/     who would be in production when: flywheel.promotion.timeline

The state is that of the decision with the highest number; it is never changed, only followed by the next one
(flywheel.promotion.transitions has who may follow whom). Numbers and not clocks give the order; the recorded
time of a decision is never before that of the one before it, so that a time has one state, too.

`champion.json` is a copy of the champion in the last decision, replaced whole. Whoever serves may read it
alone: it always names a whole champion, and is behind for the moment, or after a kill until the next
decision or night, in which it is not yet written.
"""

from __future__ import annotations

import bisect
import hashlib
import re
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError
from flywheel.config.student import FamilyName, Student
from flywheel.evaluation.cascade import Cascade
from flywheel.promotion.holds import Hold

VIEW = "champion.json"
RESTORE = "`flywheel champion restore` puts its copy back, or says what else to do"
_NAME = re.compile(r"\d{10}\.json")
# Decisions that were read, by root and path; one is used where the decision after it names its digest.
_read: dict[tuple[str, str], Decision] = {}


class RegistryEntry(BaseModel):
    """The version of the champion in the MLflow model registry."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    version: str


class Whole(BaseModel):
    """What a champion consists of, in a place of its own: see flywheel.promotion.whole.

    Attributes:
        path: of the copy, relative to the artifact root.
        digest: SHA-256 over names and bytes of all its files.
        workload_version: hash of the prompt, classes and aliases of its day; `classes` are these.
        student_prompt: what it is asked: the whole prompt, or the record's own text.
        base: name of the base weights on the Hugging Face Hub; `base_revision`: their commit there, or of a
            folder a hash of its files; empty where neither the training nor who promoted knew it.
        base_sha256: hash of the files that the adapter was trained on; empty where the runtime does not say.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: str
    digest: str
    workload_version: str
    classes: tuple[str, ...]
    student_prompt: str
    base: str
    base_revision: str
    base_sha256: str = ""


class Champion(BaseModel):
    """A candidate in production, with all that is needed to load it and to judge the next one against it.

    Attributes:
        family: of the student.
        model_name: the student's Hugging Face name; `weights` is where its weights are read from.
        adapter: key of the LoRA adapter; `adapter_path` is its path in the artifact root.
        metric: the name of the metric that it was chosen by; `score` against the teacher, on the eval set of
            `run_id`, `score_ci95` its 95 % interval.
        cutoff: unix seconds; it was made from records before that.
        promoted_at: ISO 8601, UTC.
        whole: its copy with the prompt and classes of its day; None: an older flywheel promoted it, or it is
            what would have been.
        gain: its score less that of the champion before it, on the same records; None where that was not
            measured.
        cascade: from which probability on it answers by itself, as fixed at its promotion; None: no cascade
            was asked for then.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    workload_id: str
    client_id: str
    student: str
    family: FamilyName = "causal_lm"
    model_name: str
    weights: str
    size: int
    parameters: int | None
    adapter: str
    adapter_path: str
    dataset: str | None
    evaluation: str | None
    metric: str
    score: float
    score_ci95: tuple[float, float] | None
    run_id: str
    cutoff: int
    promoted_at: str
    reason: str
    comment: str = ""
    registry: RegistryEntry | None = None
    gain: float | None = None
    whole: Whole | None = None
    cascade: Cascade | None = None

    @property
    def name(self) -> str:
        """The name in texts: `1b @ 5000`."""
        return f"{self.student} @ {self.size}"

    @property
    def as_student(self) -> Student:
        """The student that it was trained from, with the default context: the config may have it no more."""
        return Student(
            model_name=self.model_name,
            name=self.student,
            family=self.family,
            weights=self.weights,
            gpus=0 if self.family == "linear" else 1,
        )


def champion_folder(workload_id: str, client_id: str) -> str:
    """Return the folder of a workload's and client's champion, relative to the artifact root."""
    return f"champions/{_part(workload_id)}/{_part(client_id)}"


class Stop(BaseModel):
    """A person's word that the champion answers nothing at the endpoint until it is resumed.

    Attributes:
        by: the person's name; empty: not known.
        at: ISO 8601, UTC.
        comment: of the person.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    by: str
    at: str
    comment: str = ""

    @property
    def sentence(self) -> str:
        """Who stopped it when and why, and how it goes on."""
        said = f" ({self.comment})" if self.comment else ""
        when = f"{self.at[:16].replace('T', ' ')} UTC"
        return (
            f"{self.by or 'somebody'} stopped the champion at {when}{said}; it answers again after "
            "DELETE /api/champion/stop, or flywheel champion resume"
        )


class Decision(BaseModel):
    """One decision, and the state after it.

    Attributes:
        sequence: 1, 2, 3, ... without a gap, in the order in which they were taken.
        id: of this attempt to decide: whose decision it was that got the number.
        kind: promoted, rolled back: the champion changed. rejected: a person's no, which holds. lifted: a
            hold ended without a change of the champion. registered: the same champion, now in the MLflow
            registry, or with its own copy. lost: a person gave up a damaged decision; the state is the one
            before it. stopped, resumed: the same champion, which answers nothing, or answers again.
        by: the person who decided; empty where the rules did.
        task: of the run whose task decided; empty where a person did by API or command.
        at: ISO 8601, UTC; never before that of the decision before.
        champion: in force after it; None: the teacher.
        replaced: key of the adapter in force before it.
        hold: the person's word in force after it, and `turned_down`: words whose hold has ended and whose
            adapter is still not promoted by itself.
        stop: the person's word that the champion answers nothing; only a person ends it.
        previous: the digest of the decision before; empty for the first.
        digest: SHA-256 of all the above, as JSON with sorted keys.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sequence: int = Field(ge=1)
    id: str
    kind: Literal["promoted", "rolled back", "rejected", "lifted", "registered", "lost", "stopped", "resumed"]
    by: str = ""
    task: str = ""
    at: str
    champion: Champion | None
    replaced: str | None = None
    hold: Hold | None = None
    turned_down: tuple[Hold, ...] = ()
    stop: Stop | None = None
    previous: str = ""
    digest: str = ""

    @property
    def changed_champion(self) -> bool:
        """Whether it put another champion into force."""
        return self.kind in ("promoted", "rolled back")

    def turns_down(self, adapter: str) -> Hold | None:
        """Return the word of a person who turned an adapter down, and that nobody has taken back since."""
        for hold in (*self.turned_down, *([self.hold] if self.hold else [])):
            if hold.adapter == adapter:
                return hold.model_copy(update={"ended": hold.ended or "replaced"})
        return None

    def sealed(self) -> Decision:
        """Return it with its digest."""
        return self.model_copy(update={"digest": digest_of(self.model_dump(mode="json"))})


def digest_of(content: dict[str, Any]) -> str:
    """Return the SHA-256 of a decision's JSON object, but for the digest in it."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)).hexdigest()


def sequences(root: ArtifactRoot, workload_id: str, client_id: str) -> list[int]:
    """Return the numbers of all decisions, 1 to n.

    Raises:
        ArtifactError: one is missing, or there are none and yet a champion, of an older flywheel.
    """
    folder = champion_folder(workload_id, client_id)
    found = sorted(int(name[:10]) for name in root.list(f"{folder}/decisions") if _NAME.fullmatch(name))
    if found and found != list(range(1, len(found) + 1)):
        gap = next(number for number, there in enumerate(found, 1) if number != there)
        raise ArtifactError(f"{root.url}/{folder}/{decision_name(gap)}: no such file; {RESTORE}")
    if not found and any(root.exists(f"{folder}/{name}") for name in (VIEW, "history")):
        raise ArtifactError(
            f"{root.url}/{folder}/decisions: no decision is there, and yet {VIEW} or a history of an "
            "older flywheel: `flywheel champion restore` brings them up, or says which file is damaged"
        )
    return found


def decision_name(sequence: int, folder: str = "decisions") -> str:
    """Return the path of a decision in the champion's folder."""
    return f"{folder}/{sequence:010}.json"


def read_decision(
    root: ArtifactRoot, workload_id: str, client_id: str, sequence: int, folder: str = "decisions"
) -> Decision:
    """Return one decision.

    Raises:
        ArtifactError: its file is not there or damaged.
    """
    path = f"{champion_folder(workload_id, client_id)}/{decision_name(sequence, folder)}"
    try:
        content = root.read_json(path)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; {RESTORE}") from None
    try:
        decision = Decision.model_validate(content)
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(map(str, detail["loc"]))
        raise ArtifactError(f"{root.url}/{path}: not a decision: {key}: {detail['msg']}; {RESTORE}") from None
    if decision.sequence != sequence or decision.digest != digest_of(content):
        raise ArtifactError(f"{root.url}/{path}: damaged, its digest is another; {RESTORE}")
    return decision


def read_state(
    root: ArtifactRoot, workload_id: str, client_id: str, at: int | None = None
) -> Decision | None:
    """Return the decision whose state is in force; None: nobody has decided anything yet.

    Args:
        at: unix seconds: the one that was in force then; None: now.

    Raises:
        ArtifactError: a decision is damaged or missing.
    """
    numbers = sequences(root, workload_id, client_id)
    if at is not None:

        def recorded(number: int) -> int:
            return seconds(read_decision(root, workload_id, client_id, number).at)

        numbers = numbers[: bisect.bisect_right(numbers, at, key=recorded)]
    return read_decision(root, workload_id, client_id, numbers[-1]) if numbers else None


def decisions(root: ArtifactRoot, workload_id: str, client_id: str, after: int = 0) -> list[Decision]:
    """Return all decisions in order, or those after a number; each file is read once in a process.

    Raises:
        ArtifactError: one is damaged or missing.
    """
    folder, found = champion_folder(workload_id, client_id), []
    expected: str | None = None
    for number in reversed([one for one in sequences(root, workload_id, client_id) if one > after]):
        place = (root.url, f"{folder}/{number}")
        decision = _read.get(place)
        if decision is None or decision.digest != expected:
            decision = _read[place] = read_decision(root, workload_id, client_id, number)
        if expected not in (None, decision.digest) and decision.kind != "lost":
            raise ArtifactError(
                f"{root.url}/{folder}/{decision_name(number)}: not the decision that the next one followed; "
                f"{RESTORE}"
            )
        expected = decision.previous
        found.append(decision)
    return found[::-1]


def read_champion(root: ArtifactRoot, workload_id: str, client_id: str) -> Champion | None:
    """Return the champion in force; None where there is none yet.

    Raises:
        ArtifactError: the last decision is damaged or missing.
    """
    state = read_state(root, workload_id, client_id)
    return state.champion if state else None


def champion_history(root: ArtifactRoot, workload_id: str, client_id: str) -> list[Champion]:
    """Return all champions there were, oldest first.

    Raises:
        ArtifactError: a decision is damaged or missing.
    """
    history: list[Champion] = []
    for decision in decisions(root, workload_id, client_id):
        if decision.champion is not None and decision.changed_champion:
            history.append(decision.champion)
        elif decision.champion is not None and decision.kind == "registered":
            history[-1:] = [decision.champion]
    return history


def champion_adapters(root: ArtifactRoot) -> set[str]:
    """Return the keys of all adapters that are or were the champion of any workload and client.

    Those that would have been, by the timeline, count too: nights in the past are compared with them.
    """
    found = set()
    for workload in root.list("champions"):
        for client in root.list(f"champions/{workload}"):
            folder = f"champions/{workload}/{client}"
            for inside in ("decisions", "kept", "timeline", "history"):
                for name in root.list(f"{folder}/{inside}"):
                    if name.endswith(".json"):
                        content = root.read_json(f"{folder}/{inside}/{name}")
                        then = content if inside == "history" else content.get("champion")
                        found |= {str(then["adapter"])} if then else set()
            if root.exists(f"{folder}/{VIEW}"):
                found.add(str(root.read_json(f"{folder}/{VIEW}").get("adapter")))
    return found


def seconds(moment: str) -> int:
    """Return an ISO time in unix seconds."""
    return int(datetime.fromisoformat(moment).timestamp())


def _part(name: str) -> str:
    """Return an id as one part of a path: different ids always give different parts, none is '..'."""
    part = quote(name, safe="")
    if not part.strip("."):
        part = part.replace(".", "%2E")
    if len(part) <= 120:
        return part
    return f"{part[:100]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
