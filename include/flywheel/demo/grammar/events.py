"""Kinds of event and how one headline tells one or two of them, with the label a careful reader gives.

Two rules of the taxonomy decide headlines with two events: price targets outrank everything, mergers
and regulation outrank the rest, and otherwise the first event counts. The teacher is good, not perfect.
It errs in ways that the text determines: some kinds it always reads as another class (a share buyback as
a dividend), and in some combinations it forgets the precedence.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import random
from dataclasses import dataclass, replace

from flywheel.demo.grammar.compiler import Draw, Scene, compile_template, read_yaml

FILES = ("views.yaml", "results.yaml", "deals.yaml", "people_law.yaml", "market.yaml", "other.yaml")
_RANK = {"Price Targets": 0, "Mergers and Acquisitions": 1, "Regulatory": 1}
_NAMES = frozenset({"co", "bank", "agency", "fund", "person", "drug"})
_SECOND_CLAUSE_SHARE = 0.22
_BACKGROUND_SHARE = 0.1
_TAIL_SHARE = 0.36


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of event: the class it belongs to, the class the teacher gives, and its templates.

    `what` says in a phrase what happened, `actor` who acts and `tone` whether it is good news; the demo
    pretraining asks for them. `causes` are noun phrases ("a profit warning"), `thens` second clauses
    ("cuts dividend").
    """

    name: str
    label: str
    teacher: str
    what: str
    actor: str
    tone: str
    weight: float
    explains_move: bool
    templates: tuple[Draw, ...]
    causes: tuple[Draw, ...]
    thens: tuple[Draw, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """A drawn headline without its dressing: text, labels, kinds (one or two) and the facts in it.

    `scene` is what it is about and `template` the place of the one that tells it, for `retell_event`.
    """

    text: str
    human_label: str
    teacher_label: str
    kinds: tuple[Kind, ...]
    facts: dict[str, str]
    scene: Scene
    template: int


@functools.cache
def kinds() -> tuple[Kind, ...]:
    """Return every kind of event in the grammar files, in order."""
    return tuple(_kind(name, entry) for file in FILES for name, entry in read_yaml(file).items())


def _kind(name: str, entry: dict[str, object]) -> Kind:
    def drawn(key: str) -> tuple[Draw, ...]:
        texts = entry.get(key, [])
        assert isinstance(texts, list)
        return tuple(compile_template(text) for text in texts)

    label = str(entry["label"])
    return Kind(
        name=name,
        label=label,
        teacher=str(entry.get("teacher", label)),
        what=str(entry["what"]),
        actor=str(entry["actor"]),
        tone=str(entry["tone"]),
        weight=float(str(entry["weight"])),
        explains_move=bool(entry.get("mix", False)),
        templates=drawn("templates"),
        causes=drawn("cause"),
        thens=drawn("then"),
    )


@functools.cache
def _table(needs: str) -> tuple[tuple[Kind, ...], list[float]]:
    chosen = tuple(kind for kind in kinds() if not needs or getattr(kind, needs))
    return chosen, list(itertools.accumulate(kind.weight for kind in chosen))


def _draw_kind(scene: Scene, needs: str = "") -> Kind:
    chosen, bounds = _table(needs)
    return chosen[bisect.bisect_right(bounds, scene.random() * bounds[-1])]


def _one_of(scene: Scene, options: tuple[Draw, ...]) -> str:
    return options[int(scene.random() * len(options))](scene)


def draw_event(scene: Scene) -> Event:
    """Return one event told in the scene: a single one, a share move with its cause, or two clauses."""
    kind = _draw_kind(scene)
    kinds: tuple[Kind, ...] = (kind,)
    human, teacher = kind.label, kind.teacher
    if kind.explains_move:
        cause = _draw_kind(scene, "causes")
        scene.facts["cause"] = _one_of(scene, cause.causes)
        kinds = (kind, cause)
        human = cause.label if _RANK.get(cause.label, 2) < 2 else kind.label
        # The teacher sees the shares and forgets that regulation outranks them.
        teacher = kind.label if cause.label == "Regulatory" else human
    template = int(scene.random() * len(kind.templates))
    text = kind.templates[template](scene)
    if not kind.explains_move:
        if scene.random() < _TAIL_SHARE:
            text = f"{text} {scene.word('tail')}"
        u = scene.random()
        if kind.actor in _TWO_CLAUSE_ACTORS and u < _SECOND_CLAUSE_SHARE:
            second = _draw_kind(scene, "thens")
            if second.label != kind.label:
                kinds = (kind, second)
                text = _two_clauses(scene, text, second)
                human, teacher = _two_labels(kind, second)
        elif "co" in scene.facts and u > 1 - _BACKGROUND_SHARE:
            # Old news in the background does not count, whatever it is.
            text = (
                f"{text} {scene.word('distance')} after {_one_of(scene, _draw_kind(scene, 'causes').causes)}"
            )
    return Event(text, human, teacher, kinds, scene.facts, scene, template)


def retell_event(event: Event, rng: random.Random) -> Event | None:
    """Return another report of an event: its names and figures by another template, with the same labels.

    None: its kind has one template alone, or nobody and nothing by name is in it.
    """
    kind, *further = event.kinds
    others = len(kind.templates) - 1
    if others < 1 or _NAMES.isdisjoint(event.scene.facts):
        return None
    scene = event.scene.again(rng)
    template = (event.template + 1 + int(scene.random() * others)) % (others + 1)
    text = kind.templates[template](scene)
    if further and not kind.explains_move:
        text = _two_clauses(scene, text, further[0])
    return replace(event, text=text, facts=scene.facts, scene=scene, template=template)


def _two_clauses(scene: Scene, text: str, second: Kind) -> str:
    mark = "; " if scene.random() < 0.5 else ", "
    return f"{text}{mark}{_one_of(scene, second.thens)}"


_TWO_CLAUSE_ACTORS = frozenset({"company", "broker"})


def _two_labels(first: Kind, second: Kind) -> tuple[str, str]:
    human = second.label if _RANK.get(second.label, 2) < _RANK.get(first.label, 2) else first.label
    if first.label == "Earnings" and second.label == "Guidance":
        return human, second.label  # the teacher prefers the outlook to the results it comes with
    if human == first.label:
        return human, first.teacher
    return human, second.teacher
