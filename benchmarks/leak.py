"""What a split leaks: events found, siblings across the split, and whether its F1 holds on the next day.

    python -m benchmarks.leak [--quick]

Made events (`benchmarks.made_events`): 1,500 with three reports each in other words, and distractors of the
same company on the same day, over 20 days; then a day of new events. The grouping is compared pair by pair
with the truth. Then TF-IDF with logistic regression learns from each split's training set and is examined on
its eval set and on the next day: where the two differ, the split promised what tomorrow does not keep. The
peer is the split of before, random by record. Siblings are counted by the truth, not by what was grouped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.made_events import Report, make_reports
from flywheel.config.schema import DataSplitConfig
from flywheel.curation.reading import Reduced
from flywheel.curation.samples import Samples, collect
from flywheel.curation.splits import Split, split
from flywheel.curation.words import words_of

EVENTS, DAYS, START = 1500, 20, 1_700_006_400
EVAL_SIZE = 400
SEEDS = 20
QUICK_SEEDS = 5


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEEDS} seeds instead of {SEEDS}")
    seeds = QUICK_SEEDS if parser.parse_args().quick else SEEDS
    started = time.monotonic()
    rows = [_measure(seed) for seed in range(seeds)]
    temporal, events, peer = (_summed(rows, name) for name in ("temporal", "random", "peer"))
    found = {
        "name": "leak",
        "ours": temporal["f1_difference"],
        "peer": peer["f1_difference"],
        "ratio": round(abs(peer["f1_difference"]) / max(abs(temporal["f1_difference"]), 1e-3), 1),
        "unit": "F1 on the split minus F1 on the next day, mean of the seeds",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "seeds": seeds,
        "records": rows[0]["records"],
        "pairwise_precision": round(min(row["precision"] for row in rows), 4),
        "pairwise_recall": round(min(row["recall"] for row in rows), 4),
        "largest_group_share": round(max(row["largest"] for row in rows), 4),
        "temporal": temporal,
        "random_with_events": events,
        "peer_name": "random by record, as before",
        "random_by_record": peer,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(found))


def _measure(seed: int) -> dict[str, Any]:
    reports = make_reports(EVENTS, seed, days=DAYS, start=START)
    tomorrow = make_reports(EVENTS // DAYS * 4, seed + 1000, days=1, start=START + (DAYS + 1) * 86400)
    config = DataSplitConfig(split="temporal", eval_size=EVAL_SIZE, val_ratio=0.02, calibration_ratio=0.02)
    samples = _collect(reports, config)
    # An id is the place of the report.
    kept = [reports[int(name)] for name in samples.ids]
    truth = [report.event for report in kept]
    both = _pairs(zip(samples.events.tolist(), truth, strict=True))
    row: dict[str, Any] = {
        "records": len(kept),
        "precision": both / max(1, _pairs(samples.events.tolist())),
        "recall": both / max(1, _pairs(truth)),
        "largest": max(Counter(samples.events.tolist()).values()) / len(kept),
    }
    alone = np.arange(len(kept))
    for name, kind, events in (
        ("temporal", "temporal", samples.events),
        ("random", "random", samples.events),
        ("peer", "random", alone),
    ):
        settings = config.model_copy(update={"split": kind})
        parts = split(samples.labels, samples.names, samples.hashes, samples.known_at, events, settings)
        row[name] = _examine(kept, parts, tomorrow)
    return row


def _collect(reports: Sequence[Report], config: DataSplitConfig) -> Samples:
    lines = (
        Reduced(f"{place:09}", report.label, " ".join(words_of(report.text)), report.time, 0)
        for place, report in enumerate(reports)
    )
    return collect(lines, config)


def _examine(kept: Sequence[Report], parts: Split, tomorrow: Sequence[Report]) -> dict[str, float]:
    train, held_out = ([kept[place] for place in places.tolist()] for places in (parts.train, parts.eval))
    known = {report.event for report in train}
    first = min(report.time for report in held_out)
    on_split, on_next_day = _f1(train, held_out, tomorrow)
    return {
        "eval_with_sibling_in_training": sum(report.event in known for report in held_out),
        "training_known_after_first_eval": sum(report.time > first for report in train),
        "f1_on_split": on_split,
        "f1_on_next_day": on_next_day,
        "f1_difference": on_split - on_next_day,
        "train": len(train),
    }


def _f1(train: Sequence[Report], *examined: Sequence[Report]) -> list[float]:
    """Return the weighted F1 on each set, of TF-IDF with logistic regression as in the report's baseline."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    model = LogisticRegression(C=10, solver="saga", tol=1e-2, random_state=0)
    model.fit(words.fit_transform([r.text for r in train]), [r.label for r in train])
    return [
        float(f1_score([r.label for r in part], model.predict(words.transform([r.text for r in part])),
                       average="weighted", zero_division=0))
        for part in examined
    ]  # fmt: skip


def _pairs(groups: Iterable[Any]) -> int:
    return sum(count * (count - 1) // 2 for count in Counter(groups).values())


def _summed(rows: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """Return means over the seeds; of the counts of leaks the largest."""
    keys = rows[0][name]
    return {
        key: max(row[name][key] for row in rows)
        if key.startswith(("eval_with", "training_known"))
        else round(float(np.mean([row[name][key] for row in rows])), 4)
        for key in keys
    }


if __name__ == "__main__":
    main()
