"""What the demo students are pretrained on: documents made from the generator's own headlines.

Four sorts, all as chats: a desk's wire (headlines one after the other); questions about one headline (what
happened, who acts, which company, how does it go on); questions about a list of class names, without a
headline; and sorting tasks behind a long prompt with classes and examples. The sorting tasks use other
taxonomies than the demo's workload: by actor, by tone, by a fine list of 59 kinds of event, by one of eight
arbitrary groupings of these kinds under names such as "amber", or by a grouping under the workload's class
names in which every name is wrong. So a student knows the language, the words and the form of an answer, but
not the task, which is never shown.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from datetime import date

from flywheel.demo.grammar import Event, kinds
from flywheel.demo.headlines import generate_events

Message = dict[str, str]
_START, _END = date(2015, 1, 1), date(2024, 1, 1)

# Names of the groups of the arbitrary taxonomies; none is a word of the workload's labels.
_GROUP_NAMES = (
    "amber", "anchor", "apple", "arrow", "basket", "bell", "blue", "boat", "bottle", "bread", "brick",
    "bridge", "candle", "castle", "chalk", "cherry", "clay", "cloud", "comet", "copper", "diamond",
    "door", "drum", "eagle", "feather", "fern", "flute", "forest", "garden", "glass", "grape", "green",
    "hammer", "honey", "horn", "ivory", "kettle", "ladder", "lamp", "lemon", "lion", "marble", "mirror",
    "moon", "needle", "north", "oak", "orange", "owl", "pearl", "pencil", "piano", "pine", "plum",
    "purple", "rabbit", "ribbon", "ring", "rose", "sail", "salt", "shell", "silver", "snow", "spoon",
    "square", "star", "stone", "summer", "swan", "thread", "tiger", "tower", "tulip", "velvet", "violet",
    "wagon", "wave", "willow", "winter", "wolf", "yellow",
)  # fmt: skip
_ARBITRARY_TAXONOMIES = 8

_CLASS_NAMES = (
    "analyst rating", "price targets", "earnings", "labour issues", "mergers and acquisitions",
    "dividends", "regulatory", "stock price movement", "credit ratings", "products-services",
    "product approval", "guidance", "other",
)  # fmt: skip
# Class names for the listing lessons, which say them without a headline.
_LISTED_NAMES = (
    *_CLASS_NAMES, "people", "markets", "companies", "money matters", "law", "research notes", "opinion",
    "world news", "health", "energy and mining", "debt", "weather", "sport", "science", "travel", "crime",
    "art and culture", "education", "technology", "real estate", "transport", "farming", "personal finance",
)  # fmt: skip

_OPENINGS = (
    "You sort news for a desk.", "You are a careful reader of headlines.", "You are a helpful assistant.",
    "You are a news classifier.", "You label text.", "You are an editor at a news agency.",
    "You answer briefly.",
)  # fmt: skip
_INSTRUCTIONS = (
    "Sort the headline into exactly one of the classes below.",
    "Read the headline and choose the class that fits it best.",
    "Pick one label for each headline. Judge by what the headline says, not by what may follow from it.",
    "Below are the groups and when each of them applies. Give the group of the headline.",
    "Decide which of these classes the financial news headline belongs to.",
)
_RULES = (
    "When several classes fit, the first event in the headline counts.",
    "When in doubt, take the nearest class.", "Names of companies do not matter, what happens does.",
    "Numbers alone never decide.", "Old news in the background does not count.",
    "Do not explain the answer.", "Use no other words.", "The order of the classes has no meaning.",
    "Every headline has one class.", "Rumours count as news.",
    "If the move of a share is the message, go by the move.", "The source of a report does not matter.",
)  # fmt: skip
_TAILS = (
    "Answer with the class in triple square brackets and nothing else.",
    "Answer with the label in [[[brackets]]].", "Give only the class, in three pairs of square brackets.",
    "Class:", "Reply with one class in triple brackets.",
)  # fmt: skip
_TEXT_NAMES = ("Headline: ", "Headline: ", "Headline: ", "News: ", "Text: ", "")


class Lessons:
    """A deterministic stream of pretraining chats.

    Args:
        seed: the stream's seed; different seeds give different headlines.
        listing: share of the chats about a list of class names.
    """

    def __init__(self, seed: int, listing: float = 0.25) -> None:
        self.listing_share = listing
        self.rng = random.Random(f"lessons/{seed}")
        self._events = generate_events(1 << 40, seed, _START, _END)

    def event(self) -> Event:
        """Return the next headline with its structure."""
        return next(self._events)[0]

    def chats(self) -> Iterator[list[Message]]:
        """Yield chats without end."""
        sorts: list[Callable[[], list[Message]]] = [self.wire, self.questions, self.sorting]
        while True:
            if self.rng.random() < self.listing_share:
                yield self.listing()
            else:
                yield self.rng.choices(sorts, weights=[0.15, 0.4, 0.45])[0]()

    def wire(self) -> list[Message]:
        """Headlines one after the other."""
        lines = "\n".join(self.event().text for _ in range(self.rng.randint(3, 20)))
        return [_say("user", "Today's headlines?"), _say("assistant", lines)]

    def questions(self) -> list[Message]:
        """One to five questions about one headline."""
        event = self.event()
        asked = [question for question in (ask(self, event) for ask in _QUESTIONS) if question]
        chat: list[Message] = []
        for question, answer in self.rng.sample(asked, min(len(asked), self.rng.randint(1, 5))):
            chat.append(_say("user", question if chat else f"{question}\n{event.text}"))
            chat.append(_say("assistant", answer))
        return chat

    def sorting(self) -> list[Message]:
        """A long prompt with classes and examples, then several headlines to sort."""
        rng = self.rng
        classes, label_of = rng.choices(TAXONOMIES, weights=_TAXONOMY_WEIGHTS)[0](rng)
        name, tail = rng.choice(_TEXT_NAMES), rng.choice(_TAILS)
        rules = rng.sample(_RULES, rng.randint(0, 6))
        examples = (self.event() for _ in range(rng.randint(0, 24)))
        shown = "\n\n".join(f"{name}{event.text}\nClass: [[[{label_of(event)}]]]" for event in examples)
        listed = "\n".join(f"- {label}: {when}." if when else f"- {label}" for label, when in classes)
        numbered = "\n".join(f"{number}. {rule}" for number, rule in enumerate(rules, 1))
        parts = [rng.choice(_INSTRUCTIONS), f"Classes:\n{listed}", numbered, shown and f"Examples:\n{shown}"]
        before = "\n\n".join(part for part in parts if part)
        chat = [_say("system", rng.choice(_OPENINGS))] if rng.random() < 0.8 else []
        for turn in range(rng.choice([1, 2, 4, 8, 8])):
            event = self.event()
            asked = f"{name}{event.text}\n{tail}"
            chat.append(_say("user", f"{before}\n\n{asked}" if turn == 0 else asked))
            chat.append(_say("assistant", f"[[[{label_of(event)}]]]"))
        return chat

    def listing(self) -> list[Message]:
        """A list of classes and questions about the list alone."""
        rng = self.rng
        names = rng.sample(_LISTED_NAMES, rng.randint(5, 16))
        if rng.random() < 0.5:
            rows = "\n".join(f"- {name}: {rng.choice(kinds()).what}." for name in names)
        else:
            rows = "\n".join(f"- {name}" for name in names)
        chat: list[Message] = []
        for _ in range(rng.randint(2, 8)):
            place = rng.randrange(len(names))
            asked = (
                f"Give class {place + 1}."
                if place == 0 or rng.random() < 0.5
                else f"After {names[place - 1]}?"
            )
            chat.append(_say("user", asked if chat else f"Classes:\n{rows}\n\n{asked}"))
            chat.append(_say("assistant", f"[[[{names[place]}]]]"))
        return chat


def _say(role: str, content: str) -> Message:
    return {"role": role, "content": content}


_Taxonomy = tuple[list[tuple[str, str]], Callable[[Event], str]]


def _by_kind(rng: random.Random) -> _Taxonomy:
    classes = [(kind.name.replace("_", " "), kind.what if rng.random() < 0.5 else "") for kind in kinds()]
    rng.shuffle(classes)
    return classes, lambda event: event.kinds[0].name.replace("_", " ")


def _by_actor(rng: random.Random) -> _Taxonomy:
    actors = sorted({kind.actor for kind in kinds()})
    rng.shuffle(actors)
    return [(actor, "") for actor in actors], lambda event: event.kinds[0].actor


def _by_tone(rng: random.Random) -> _Taxonomy:
    tones = [("good", "good news"), ("bad", "bad news"), ("plain", "neither good nor bad")]
    rng.shuffle(tones)
    return tones, lambda event: event.kinds[0].tone


def _arbitrary(number: int) -> Callable[[random.Random], _Taxonomy]:
    """An arbitrary grouping of the kinds, the same in all lessons.

    Groupings that change from chat to chat were tried first: the students learned to name a group from the
    list without looking at the headline, and fine-tuning then sat on a plateau for some 70 steps.
    """
    fixed = random.Random(f"taxonomy/{number}")
    every = fixed.sample(kinds(), len(kinds()))
    names = fixed.sample(_GROUP_NAMES, fixed.randint(4, 14))
    group = {kind.name: names[place % len(names)] for place, kind in enumerate(every)}
    whats = {name: "; ".join(kind.what for kind in every if group[kind.name] == name) for name in names}

    def taxonomy(rng: random.Random) -> _Taxonomy:
        with_whats = rng.random() < 0.5
        order = rng.sample(names, len(names))
        classes = [(name, whats[name] if with_whats else "") for name in order]
        return classes, lambda event: group[event.kinds[0].name]

    return taxonomy


def misnamed(rng: random.Random) -> _Taxonomy:
    """The workload's class names, each over headlines that do not belong to it.

    A student that has never answered with these names first learns, in fine-tuning, how frequent each is,
    and only after some 40 steps which headline calls for which. One that has used them wrongly unlearns fast.
    """
    names = rng.sample(_CLASS_NAMES, len(_CLASS_NAMES))
    return [(name, "") for name in names], wrong_class


def wrong_class(event: Event) -> str:
    """Return a class name of the workload that is wrong for `event`; nearly always the same for its kind."""
    at = _WRONG_PLACE[event.kinds[0].name]
    right = {event.human_label.lower(), event.teacher_label.lower()}
    right |= {event.kinds[0].label.lower(), event.kinds[0].teacher.lower()}
    return next(name for name in _CLASS_NAMES[at:] + _CLASS_NAMES[:at] if name not in right)


def _wrong_places() -> dict[str, int]:
    shuffled = random.Random("misnamed").sample(kinds(), len(kinds()))
    return {kind.name: place % len(_CLASS_NAMES) for place, kind in enumerate(shuffled)}


_WRONG_PLACE = _wrong_places()
TAXONOMIES = (
    *(_by_kind, _by_actor, _by_tone, misnamed),
    *(_arbitrary(number) for number in range(_ARBITRARY_TAXONOMIES)),
)
_TAXONOMY_WEIGHTS = (6, 1, 1, 6, *([0.5] * _ARBITRARY_TAXONOMIES))

_Question = tuple[str, str] | None


def _what(lessons: Lessons, event: Event) -> _Question:
    asked = lessons.rng.choice(["What happened?", "What is the news?", "What is this about?"])
    return asked, event.kinds[0].what


def _second(lessons: Lessons, event: Event) -> _Question:
    return "What else happened?", event.kinds[1].what if len(event.kinds) > 1 else "nothing else"


def _who(lessons: Lessons, event: Event) -> _Question:
    return lessons.rng.choice(["Who acts?", "Whose act is this?"]), event.kinds[0].actor


def _tone(lessons: Lessons, event: Event) -> _Question:
    return lessons.rng.choice(["Good or bad news?", "How does it sound?"]), event.kinds[0].tone


_FACTS = {
    "co": "Which company?", "co2": "Which other company?", "bank": "Which bank?", "person": "Who is named?",
    "amount": "How much money?", "pct": "By how much?", "country": "Which country?", "city": "Which city?",
    "product": "Which product?", "drug": "Which drug?", "reason": "For what reason?", "px": "At what price?",
    "jobs": "How many jobs?", "role": "Which position?", "regulator": "Which authority?",
    "court": "Which court?", "disease": "Against what disease?", "cause": "After what?",
}  # fmt: skip


def _fact(lessons: Lessons, event: Event) -> _Question:
    lowered = event.text.lower()
    present = [key for key in _FACTS if key in event.facts and event.facts[key].lower() in lowered]
    if not present:
        return None
    key = lessons.rng.choice(present)
    at = lowered.index(event.facts[key].lower())
    return _FACTS[key], event.text[at : at + len(event.facts[key])]


def _complete(lessons: Lessons, event: Event) -> _Question:
    words = event.text.split(" ")
    if len(words) < 6:
        return None
    at = lessons.rng.randint(2, len(words) - 2)
    return f"How does it go on after: {' '.join(words[:at])}", " ".join(words[at:])


def _same(lessons: Lessons, event: Event) -> _Question:
    other = lessons.event()
    same = other.kinds[0].what == event.kinds[0].what
    return f"Same kind of news as this? {other.text}", "yes" if same else f"no, {other.kinds[0].what}"


_QUESTIONS = (_what, _what, _second, _who, _tone, _fact, _fact, _complete, _same)
