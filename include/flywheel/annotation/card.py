"""The data card: what a labelled history is, in words, and what it does not promise."""

from __future__ import annotations

from flywheel.annotation.manifest import AnnotationManifest
from flywheel.common.utc import to_second

LIMITS = """\
## Known limits

- **The teacher's own knowledge.** The labels that students learned from are a large model's, and its weights
  have read texts of after these dates. It may label an old headline by how the story went on. No cutoff of a
  data set removes that.
- **The base weights' own knowledge.** The same holds, less so, for the small models that were fine-tuned.
- **The prompt and the settings of backfilled nights** were written by people who know what came after:
  classes, examples and settings of today. The checker counts the rows that this concerns.
- **The times are the feed's.** `known_at` is what the source says, and `known_after` of the config. A feed
  that was corrected afterwards, or whose times are a later edition's, has read the future by itself.
- **Which texts there are** is today's archive: headlines that were withdrawn may be missing.
- **Labels are a student's**, not the teacher's and not a person's. Its agreement with the teacher is in the
  report of its run; `probability` is calibrated on that night's slice.
"""

_POINT_IN_TIME = """\
Each text is labelled by the champion that was, or would have been, in production before it was known. The
decision, and the champion's training, validation, calibration and eval records with their labels, were known
before `adapter_cutoff`, and `adapter_cutoff` <= `known_at` less {lag} s of lag. `flywheel annotate --check`
proves it from the artifacts themselves.
"""
_CHAMPION = """\
**This is not point in time.** Every text is labelled by one champion, of today, who was trained on texts of
after most of these dates (`mode` is `champion` in every row). Do not test a strategy on it.
"""


def card_of(manifest: AnnotationManifest) -> str:
    """Return the data card of an output, as Markdown."""
    spans = "; ".join(f"{to_second(start)} to {to_second(end)} UTC" for start, end in manifest.spans)
    body = _POINT_IN_TIME.format(lag=manifest.lag) if manifest.mode == "point_in_time" else _CHAMPION
    lines = [
        f"# {manifest.workload_id} of client {manifest.client_id}, labelled",
        "",
        f"{manifest.rows:,} texts published {spans}; {manifest.labelled:,} of them have a label.",
        "",
        body,
        "## Columns",
        "",
        "`id` (of text and time), "
        + ("`text`" if manifest.text == "keep" else "`text_sha256`")
        + ", `published`, `known_at`, `label`, `probability`, one probability a class, `student`, `adapter`, "
        "`adapter_cutoff`, `workload_version`, `mode`, `reason` (why there is no label). Sorted by "
        f"`published`, then `id`. Schema version {manifest.schema_version}, code version "
        f"{manifest.code_version}; both are in each file's metadata, and digests of all files in "
        "`manifest.json`.",
        "",
        "## Champions",
        "",
        "| from | student | run | decided by | knows nothing from | prompt and settings of | rows |",
        "|---|---|---|---|---|---|---|",
    ]
    rows: dict[str, int] = {}
    for month in manifest.months.values():
        for adapter, count in month.by_adapter.items():
            rows[adapter] = rows.get(adapter, 0) + count
    for one in manifest.champions:
        if one.champion is None:
            continue
        lines.append(
            f"| {to_second(one.at) if one.at >= 0 else 'all'} | {_cell(one.champion.name)} | "
            f"{_cell(one.champion.run_id)} | {one.kind} | {to_second(one.cutoff or 0)} | "
            f"{to_second(one.planned_at or 0)} | {rows.get(one.champion.adapter, 0):,} |"
        )
    reasons: dict[str, int] = {}
    for month in manifest.months.values():
        for reason, count in month.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    lines += ["", "## Rows without a label", ""]
    lines += [f"- {count:,}: {_cell(reason)}" for reason, count in sorted(reasons.items())] or ["None."]
    lines += [
        "",
        "## Months",
        "",
        "| month | texts | labelled | most frequent classes |",
        "|---|---|---|---|",
    ]
    for name, month in manifest.months.items():
        most = sorted(month.by_class.items(), key=lambda one: (-one[1][0], one[0]))[:3]
        named = ", ".join(f"{_cell(label)} {count:,}" for label, (count, _) in most)
        lines.append(f"| {name} | {month.rows:,} | {month.labelled:,} | {named} |")
    return "\n".join([*lines, "", LIMITS])


def _cell(text: str) -> str:
    """Return a text of others as it may stand in a table's cell."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
