"""Invented names of companies, banks, funds, agencies, people and drugs; an index always gives one name."""

from __future__ import annotations

import bisect
import functools
import itertools
import random
from pathlib import Path

import yaml

COMPANIES_PER_SECTOR = 700
_HERE = Path(__file__).parent


@functools.cache
def sectors() -> dict[str, dict[str, object]]:
    """Return the sectors of `sectors.yaml`: their share of the news, name endings and products."""
    loaded: dict[str, dict[str, object]] = yaml.safe_load(
        (_HERE / "sectors.yaml").read_text(encoding="utf-8")
    )
    return loaded


@functools.cache
def _parts() -> dict[str, list[str]]:
    lists = yaml.safe_load((_HERE / "names.yaml").read_text(encoding="utf-8"))
    return {key: str(value).split("|") for key, value in lists.items()}


@functools.cache
def _sector_bounds() -> tuple[list[str], list[float]]:
    shares = [float(str(entry["share"])) for entry in sectors().values()]
    total = sum(shares)
    return list(sectors()), [bound / total for bound in itertools.accumulate(shares)]


def draw_sector(u: float) -> str:
    """Return the sector at `u` in [0, 1) of the cumulated shares."""
    keys, bounds = _sector_bounds()
    return keys[min(bisect.bisect_right(bounds, u), len(keys) - 1)]


def _syllables(rng: random.Random, count: int) -> str:
    parts = _parts()
    return "".join(
        rng.choice(parts["onset"]) + rng.choice(parts["nucleus"]) + rng.choice(parts["coda"])
        for _ in range(count)
    )


def _surname(rng: random.Random) -> str:
    return (_syllables(rng, 1 if rng.random() < 0.93 else 2) + rng.choice(_parts()["surname"])).capitalize()


def _brand(rng: random.Random) -> str:
    parts, u = _parts(), rng.random()
    if u < 0.3:
        return _surname(rng)
    if u < 0.6:
        return rng.choice(parts["word"]) + rng.choice(parts["tail"])
    if u < 0.85:
        return (_syllables(rng, 1 if rng.random() < 0.75 else 2) + rng.choice(parts["ending"])).capitalize()
    return rng.choice(parts["word"]) + " " + rng.choice(parts["word"])


@functools.lru_cache(maxsize=1 << 15)
def _company_names(sector: str, rank: int) -> tuple[str, str, str]:
    rng = random.Random(f"company/{sector}/{rank}")
    brand, ending = _brand(rng), rng.choice(str(sectors()[sector]["names"]).split("|"))
    u = rng.random()
    if u < 0.12:
        full = f"{brand} & {_surname(rng)}"
    elif u < 0.2:
        full = f"{brand}{rng.choice(['.com', 'Works', 'One', ' International', ' Global', ' Group'])}"
    else:
        full = f"{brand} {ending}"
    legal = rng.choice(["Inc", "Corp", "Inc.", "Ltd", "PLC", "AG", "Co", "Holdings", "SA", "SE", "Group"])
    return brand, full, f"{full} {legal}"


def company(sector: str, rank: int, u: float) -> str:
    """Return the name of company `rank` of `sector`: short, full or with its legal form, by `u` in [0, 1)."""
    brand, full, legal = _company_names(sector, rank)
    return brand if u < 0.4 else full if u < 0.93 else legal


@functools.lru_cache(maxsize=1 << 12)
def bank(rank: int) -> str:
    """Return the name of broker or bank `rank`."""
    rng = random.Random(f"bank/{rank}")
    u = rng.random()
    if u < 0.35:
        return f"{_surname(rng)} {_surname(rng)}"
    if u < 0.5:
        return _surname(rng)
    return f"{_surname(rng) if u < 0.85 else rng.choice(_parts()['word'])} {rng.choice(_parts()['bank'])}"


@functools.lru_cache(maxsize=64)
def agency(rank: int) -> str:
    """Return the name of rating agency `rank`."""
    rng = random.Random(f"agency/{rank}")
    return _surname(rng) + rng.choice(["", "", "'s", " Ratings", " Credit Ratings", "'s Investor Service"])


@functools.lru_cache(maxsize=1 << 12)
def fund(rank: int) -> str:
    """Return the name of investor `rank`."""
    rng = random.Random(f"fund/{rank}")
    first = _surname(rng) if rng.random() < 0.5 else rng.choice(_parts()["word"])
    return f"{first} {rng.choice(_parts()['fund'])}"


@functools.lru_cache(maxsize=1 << 12)
def drug(rank: int) -> str:
    """Return the name of drug `rank`."""
    rng = random.Random(f"drug/{rank}")
    name = _syllables(rng, 1 if rng.random() < 0.5 else 2) + rng.choice(_parts()["drugend"])
    return name.capitalize() if rng.random() < 0.4 else name


def person(rng: random.Random) -> str:
    """Return a person's name: mostly first name and surname, sometimes the surname alone."""
    surname = _surname(rng)
    return surname if rng.random() < 0.25 else f"{rng.choice(_parts()['first'])} {surname}"


def ticker(rng: random.Random) -> str:
    """Return two to four capital letters."""
    return "".join(rng.choice("ABCDEFGHIKLMNOPRSTUVWXYZ") for _ in range(rng.choice([2, 3, 3, 4])))
