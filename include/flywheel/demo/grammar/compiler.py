"""Templates to closures, and the scene: what one headline is about (its companies, its date, its style)."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path

import yaml

from flywheel.demo.grammar import names

Draw = Callable[["Scene"], str]

_HERE = Path(__file__).parent


def read_yaml(name: str) -> dict[str, dict[str, object]]:
    """Return the mapping in the grammar file `name`, a file beside this module."""
    loaded = yaml.safe_load((_HERE / name).read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@functools.cache
def _words() -> dict[str, list[Draw]]:
    lists = yaml.safe_load((_HERE / "words.yaml").read_text(encoding="utf-8"))
    return {key: [compile_template(word) for word in str(value).split("|")] for key, value in lists.items()}


@functools.cache
def _products() -> dict[str, list[str]]:
    return {sector: str(entry["products"]).split("|") for sector, entry in names.sectors().items()}


class Scene:
    """One headline's world: everything its slots refer to, drawn as needed and kept consistent.

    `facts` holds the first value drawn for each slot, in the order drawn; the demo pretraining asks
    questions about them. `drawn` holds every value of a name, figure or place, and `given` those that a
    further report of the same event has to use.
    """

    __slots__ = ("drawn", "facts", "given", "month", "quarter", "random", "rng", "sector", "short", "year")

    def __init__(self, rng: random.Random, year: int, month: int) -> None:
        self.rng = rng
        self.random = rng.random
        self.sector = names.draw_sector(self.random())
        self.short = self.random() < 0.45  # "$1.2B" and "5%" rather than "$1.2 billion" and "5 percent"
        self.year, self.month, self.quarter = year, month, (month + 1) // 3 or 4
        self.facts: dict[str, str] = {}
        self.drawn: dict[str, list[str]] = {}
        self.given: dict[str, list[str]] = {}

    def again(self, rng: random.Random) -> Scene:
        """Return the scene for another report: the same names and figures, other words."""
        scene = Scene(rng, self.year, self.month)
        scene.sector, scene.short = self.sector, self.short
        scene.facts = dict(self.facts)
        scene.given = {key: list(values) for key, values in self.drawn.items()}
        return scene

    def pick(self, options: list[str]) -> str:
        """Return one of `options`, each as likely."""
        return options[int(self.random() * len(options))]

    def word(self, key: str) -> str:
        """Return a word of the list `key`, skewed towards its head."""
        options = _words()[key]
        u = self.random()
        return options[int(len(options) * u * (0.4 + 0.6 * u))](self)


def _company(scene: Scene, *, same_sector: float) -> str:
    sector = scene.sector if scene.random() < same_sector else names.draw_sector(scene.random())
    return names.company(sector, int(names.COMPANIES_PER_SECTOR * scene.random() ** 1.6), scene.random())


def _fixed(key: str, draw: Draw) -> Draw:
    def kept(scene: Scene) -> str:
        value = scene.facts.get(key)
        if value is None:
            value = scene.facts[key] = draw(scene)
        return value

    return kept


def _noted(key: str, draw: Draw) -> Draw:
    def noted(scene: Scene) -> str:
        value = draw(scene)
        scene.facts.setdefault(key, value)
        return value

    return noted


def _told(key: str, draw: Draw) -> Draw:
    def told(scene: Scene) -> str:
        given = scene.given.get(key)
        value = given.pop(0) if given else draw(scene)
        scene.drawn.setdefault(key, []).append(value)
        return value

    return told


def _pharma(scene: Scene) -> str:
    if "co" not in scene.facts:
        scene.sector = "pharma"
        scene.facts["co"] = _company(scene, same_sector=1.0)
    return scene.facts["co"]


def _amount(scene: Scene) -> str:
    u = scene.random()
    value = 1.0 + 98 * scene.random() ** 3 if u < 0.45 else float(int(10 + 980 * scene.random() ** 2))
    number = f"{value:.1f}".rstrip("0").rstrip(".") if u < 0.45 else f"{value:.0f}"
    sign = scene.pick(["$", "$", "$", "$", "$", "€", "£", "C$", "A$"])
    if scene.short:
        return f"{sign}{number}{'B' if u < 0.45 else 'M'}"
    return f"{sign}{number} {'billion' if u < 0.45 else 'million'}"


def _percent(scene: Scene) -> str:
    value = 30 * scene.random() ** 2.5 + 0.1
    number = f"{value:.1f}" if scene.random() < 0.4 else str(int(value) + 1)
    return f"{number}%" if scene.short or scene.random() < 0.4 else f"{number} percent"


def _eps(scene: Scene) -> str:
    value = 4 * scene.random() ** 2 + 0.01
    return f"$({value:.2f})" if scene.random() < 0.08 else f"${value:.2f}"


def _price(scene: Scene) -> str:
    value = 3 + 280 * scene.random() ** 2.2
    return f"${value:.2f}" if scene.random() < 0.3 else f"${value:.0f}"


def _jobs(scene: Scene) -> str:
    value = 10 ** (1.6 + 2.6 * scene.random())
    step = 10 if value < 1000 else 100
    return (
        f"{int(value / step) * step + step:,}"
        if scene.random() < 0.75
        else scene.pick(
            ["hundreds of", "thousands of", "dozens of", "a tenth of", "a third of", "about half of its"]
        )
    )


def _quarter(scene: Scene) -> str:
    u = scene.random()
    if u < 0.5:
        return f"Q{scene.quarter}"
    if u < 0.85:
        return ["first", "second", "third", "fourth"][scene.quarter - 1] + "-quarter"
    return scene.pick(["full-year", "half-year", "annual", "holiday-quarter", "nine-month"])


_MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip
_WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]

SLOTS: dict[str, Draw] = {
    "co": _fixed("co", lambda s: _company(s, same_sector=1.0)),
    "co2": _fixed("co2", lambda s: _company(s, same_sector=0.5)),
    "co3": _fixed("co3", lambda s: _company(s, same_sector=0.3)),
    "pharma": _pharma,
    "bank": _fixed("bank", lambda s: names.bank(int(160 * s.random() ** 1.6))),
    "agency": _fixed("agency", lambda s: names.agency(int(14 * s.random() ** 1.6))),
    "fund": _noted("fund", lambda s: names.fund(int(400 * s.random() ** 1.4))),
    "person": _fixed("person", lambda s: names.person(s.rng)),
    "drug": _fixed("drug", lambda s: names.drug(int(1500 * s.random() ** 1.3))),
    "product": _noted("product", lambda s: s.pick(_products()[s.sector])),
    "amount": _noted("amount", _amount),
    "pct": _noted("pct", _percent),
    "px": _noted("px", _price),
    "jobs": _noted("jobs", _jobs),
    "cause": lambda s: s.facts["cause"],  # set by the event that a share move is explained with
    "eps": _eps,
    "cents": lambda s: str(int(20 + 75 * s.random())),
    "num": lambda s: str(2 + int(18 * s.random() ** 1.5)),
    "zeros": lambda s: s.pick([",000", ",500", "00", "0,000", ",200"]),
    "year": lambda s: str(s.year + int(2 * s.random())),
    "quarter": _quarter,
    "month": lambda s: _MONTHS[(s.month - 1 + int(3 * s.random())) % 12],
    "pastyear": lambda s: str(s.year - 1 - int(16 * s.random() ** 1.5)),
    "surname": lambda s: names.person(s.rng).rsplit(" ", 1)[-1],
    "weekday": lambda s: s.pick(_WEEKDAYS),
    "tick": lambda s: names.ticker(s.rng),
    "acro": lambda s: names.ticker(s.rng),
}
_NOTED_WORDS = frozenset(
    {"country", "city", "regulator", "health", "court", "disease", "workers", "role", "reason"}
)


def _slot(name: str) -> Draw:
    capital = name.endswith("^")
    key = name.removesuffix("^")
    draw = SLOTS.get(key)
    if draw is None:
        draw = lambda scene: scene.word(key)  # noqa: E731 - a closure over the list's name
        if key in _NOTED_WORDS:
            draw = _told(key, _noted(key, draw))
    else:
        draw = _told(key, draw)
    if not capital:
        return draw
    plain = draw

    def capitalised(scene: Scene) -> str:
        text = plain(scene)
        return text[:1].upper() + text[1:]

    return capitalised


def compile_template(text: str) -> Draw:
    """Return a function that draws `text`, its slots and choices filled from a scene.

    Raises:
        ValueError: a bracket is not closed.
    """
    draw, end = _sequence(text, 0, top=True)
    if end != len(text):
        raise ValueError(f"unbalanced bracket at {end} in template {text!r}")
    return draw


def _sequence(text: str, at: int, *, top: bool) -> tuple[Draw, int]:
    parts: list[str | Draw] = []
    literal = ""
    while at < len(text) and (top or text[at] not in "|]"):
        if text[at] == "{":
            close = text.index("}", at)
            parts += [literal, _slot(text[at + 1 : close])]
            literal, at = "", close + 1
        elif text[at] == "[":
            choices: list[Draw] = []
            while text[at] != "]":
                choice, at = _sequence(text, at + 1, top=False)
                choices.append(choice)
                if at >= len(text):
                    raise ValueError(f"a choice is not closed in template {text!r}")
            parts += [literal, _choice(choices)]
            literal, at = "", at + 1
        else:
            literal += text[at]
            at += 1
    parts.append(literal)
    return _join([part for part in parts if part != ""]), at


def _choice(choices: list[Draw]) -> Draw:
    count = len(choices)
    return lambda scene: choices[int(scene.random() * count)](scene)


def _join(parts: list[str | Draw]) -> Draw:
    if all(isinstance(part, str) for part in parts):
        fixed = "".join(part for part in parts if isinstance(part, str))
        return lambda _: fixed
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]
    return lambda scene: "".join([part if isinstance(part, str) else part(scene) for part in parts])
