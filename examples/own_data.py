"""Own data: the log of an application that already asks a teacher becomes students, without another call.

The log here is of a help desk that sorts tickets; its prompt is its own. A line of it is a request and its
response, as OpenAI's API has them, with workload_id, client_id and timestamp (docs/sources.md).

    python -m examples.own_data [FOLDER]
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from examples.wheel import folder_of, tell, turn

TICKETS = {
    "Billing": ("charged twice", "wrong invoice", "refund still missing", "card was declined"),
    "Login": ("password reset fails", "locked out of the account", "code never arrives", "cannot sign in"),
    "Delivery": (
        "parcel is late",
        "wrong address on the parcel",
        "tracking shows nothing",
        "box was damaged",
    ),
    "Other": (
        "how do I export my data",
        "praise for the team",
        "question about the roadmap",
        "is there an app",
    ),
}
OPENINGS = ("Hello, ", "Hi team - ", "", "Once again: ", "URGENT ", "As I wrote before, ")
PLACES = ("in Leeds", "since Monday", "on my phone", "for order {n}", "after the update", "at our office")
PROMPT = "Sort the ticket into Billing, Login, Delivery or Other.\nTicket: {ticket}\nAnswer as [[[class]]]."


def log_lines(count: int, seed: int = 7) -> Iterator[dict[str, Any]]:
    """Yield the lines of the log, one every ten minutes; the teacher is wrong in 3 of 100."""
    draw = random.Random(seed)
    for number in range(count):
        label = draw.choice(list(TICKETS))
        place = draw.choice(PLACES).format(n=draw.randint(100, 999))
        ticket = f"{draw.choice(OPENINGS)}{draw.choice(TICKETS[label])} {place}"
        said = label if draw.random() > 0.03 else draw.choice(list(TICKETS))
        yield {
            "request": {
                "model": "the-desk's-teacher",
                "messages": [{"role": "user", "content": PROMPT.format(ticket=f"{ticket} (#{number})")}],
            },
            "response": {"choices": [{"message": {"role": "assistant", "content": f"[[[{said}]]]"}}]},
            "workload_id": "tickets",
            "client_id": "desk",
            "timestamp": 1_760_000_000 + 600 * number,
        }


def config_of(folder: Path) -> dict[str, Any]:
    """Write the log and return the sections of a config for it."""
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in log_lines(900)))
    return {
        "client_id": "desk",
        "workload": str(Path(__file__).with_name("tickets.yaml")),
        "source": {"path": str(log), "kind": "log_records"},
        "nims": [{"model_name": "tfidf", "family": "linear"}],
        "sizes": [15, 60, 300],
        "data_split_config": {"eval_size": 200, "near_duplicate_similarity": 1.0},
        "promotion": {"within": 0.1, "min_eval": 100},
    }


def main(folder: Path) -> float:
    """Turn the wheel on the log and tell what came out; return the best score."""
    report = turn(folder, config_of(folder), night=datetime(2025, 11, 1, tzinfo=UTC))
    tell(report)
    best = max(row.score or 0.0 for row in report.scored)
    tell(f"\nBest {report.metric.title}: {best:.3f}. {report.decision.reason}")
    return best


if __name__ == "__main__":
    main(folder_of("own_data"))
