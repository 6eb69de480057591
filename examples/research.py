# %% [markdown]
# # How many records does a student need?
#
# A research notebook as a script: each `# %%` is a cell (VS Code, PyCharm and jupytext open it so). It reads
# a finished run from its artifacts, verified by hash, and asks it a question that no report answers.
#
#     python -m examples.research [FOLDER]

# %%
"""The learning curve of one night, finer than the night's own sizes, on the night's own split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from examples import own_data
from examples.wheel import folder_of, tell
from flywheel.artifacts.root import ArtifactRoot
from flywheel.curation.result import CurateResult
from flywheel.runs.run import open_run

SIZES = (10, 20, 40, 80, 160, 320)
DRAWS = 5


def main(folder: Path) -> int:
    """Print the curve; return the records from which on the student is within .05 of its best."""
    # %% The night: that of examples.own_data, which is turned if it is not there yet.
    if not (folder / "artifacts/runs").exists():
        own_data.main(folder)
    root = ArtifactRoot(str(folder / "artifacts"))
    (night,) = root.list("runs")
    curated = open_run(root.url, night).load("stages/curate", CurateResult)

    # %% Its data set: the split that its candidates were trained and examined on.
    dataset = root.fetch("datasets", curated.dataset)
    texts, labels = {}, {}
    for part in ("train", "eval"):
        records = [orjson.loads(line) for line in (dataset / f"{part}.jsonl").open("rb")]
        texts[part] = [record["messages"][-2]["content"] for record in records]
        labels[part] = [record["label"] for record in records]

    # %% The curve: several draws of each size, as one alone would be luck.
    draw = np.random.default_rng(0)
    curve = {}
    for size in (size for size in SIZES if size <= len(texts["train"])):
        scores = []
        for _ in range(DRAWS):
            chosen = draw.permutation(len(texts["train"]))[:size]
            known = [labels["train"][at] for at in chosen]
            if len(set(known)) < 2:
                continue
            words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
            model = LogisticRegression(C=10).fit(
                words.fit_transform([texts["train"][at] for at in chosen]), known
            )
            answers = model.predict(words.transform(texts["eval"]))
            scores.append(f1_score(labels["eval"], answers, average="weighted"))
        curve[size] = (float(np.mean(scores)), float(np.std(scores)))

    # %% The figure.
    best = max(score for score, _ in curve.values())
    needed = min(size for size, (score, _) in curve.items() if score >= best - 0.05)
    for size, (score, spread) in curve.items():
        tell(f"{size:6,} records: F1 {score:.3f} ± {spread:.3f}  {'#' * round(40 * score)}")
    tell(f"\n{needed:,} records are enough to be within .05 of the best, {best:.3f}.")
    return needed


# %%
if __name__ == "__main__":
    main(folder_of("own_data"))
