"""A second workload: sentiment in three classes, on headlines made here, with a teacher that is asked.

The workload is one file, sentiment.yaml: the prompt, the classes, other spellings, examples. The teacher is a
stand-in at a local address that answers from a file; an address of a real one is `teacher.base_url`
(docs/teachers.md).

    python -m examples.sentiment [FOLDER]
"""

from __future__ import annotations

import csv
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uvicorn

from examples.wheel import folder_of, tell, turn
from flywheel_stand_ins.teacher import StandIn, read_answers

NAMES = (
    "Arbor",
    "Belmont",
    "Calvera",
    "Dunmore",
    "Ferrox",
    "Grantway",
    "Halden",
    "Irving",
    "Kestrel",
    "Lumen",
)
KINDS = ("Steel", "Foods", "Energy", "Paper", "Motors", "Health", "Software", "Mining", "Retail", "Rail")
NEWS = {
    "Positive": ("beats estimates", "raises its outlook", "wins a contract", "profit jumps", "orders surge"),
    "Negative": (
        "misses estimates",
        "cuts its outlook",
        "loses a contract",
        "profit slumps",
        "orders dry up",
    ),
    "Neutral": ("holds its annual meeting", "moves its office", "names an auditor", "confirms its outlook"),
}
WHEN = (
    "in the third quarter",
    "for the year",
    "after a strike",
    "in Asia",
    "on Tuesday",
    "despite the weather",
)


def headlines(count: int, seed: int = 11) -> Iterator[tuple[str, str]]:
    """Yield headlines with their class; one in ten has two halves, which make it neutral if they differ."""
    draw = random.Random(seed)
    for _ in range(count):
        label = draw.choice(list(NEWS))
        text = f"{draw.choice(NAMES)} {draw.choice(KINDS)} {draw.choice(NEWS[label])} {draw.choice(WHEN)}"
        if draw.random() < 0.1:
            other = draw.choice(list(NEWS))
            text += f", but {draw.choice(NEWS[other])}"
            label = label if other == label else "Neutral"
        yield f"{text}, {draw.randint(2, 90)} sources say", label


@contextmanager
def teacher(answers: Path) -> Iterator[str]:
    """Serve the stand-in teacher on a free port of this machine; give its address."""
    stand_in = StandIn(read_answers(answers, "headline", "sentiment"))
    server = uvicorn.Server(uvicorn.Config(stand_in.app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()


def write_headlines(file: Path, count: int) -> None:
    """Write headlines with their times and labels, as the teacher reads them too."""
    first = datetime(2025, 1, 1, tzinfo=UTC)
    with file.open("w", newline="") as opened:
        lines = csv.writer(opened)
        lines.writerow(("headline", "date", "sentiment"))
        for number, (text, label) in enumerate(headlines(count)):
            lines.writerow((text, (first + timedelta(hours=number)).isoformat(), label))


def main(folder: Path) -> float:
    """Write the headlines, turn the wheel on them, tell what came out; return the best score."""
    data = folder / "headlines.csv"
    write_headlines(data, 700)
    with teacher(data) as address:
        report = turn(
            folder,
            {
                "client_id": "desk",
                "workload": str(Path(__file__).with_name("sentiment.yaml")),
                "source": {"path": str(data), "columns": {"text": "headline", "timestamp": "date"}},
                "teacher": {"model": "stand-in", "base_url": address},
                "nims": [{"model_name": "tfidf", "family": "linear"}],
                "sizes": [50, 100, 300],
                "data_split_config": {"eval_size": 150, "near_duplicate_similarity": 1.0},
                "promotion": {"within": 0.2, "min_eval": 100},
            },
            night=datetime(2025, 6, 1, tzinfo=UTC),
        )
    tell(report)
    best = max(report.scored, key=lambda row: row.score or 0.0)
    for figures in report.best.per_class if report.best else []:
        tell(f"{figures.label}: F1 {figures.f1:.3f} of {figures.support} headlines")
    tell(f"\nBest {report.metric.title}: {best.score:.3f}, {best.name}.")
    return best.score or 0.0


if __name__ == "__main__":
    main(folder_of("sentiment"))
