"""The rows of a labelled history: their columns, their ids, and how a file of them is written.

| column | |
|---|---|
| id | 32 hex digits of a SHA-256 over the text and its time |
| text, or text_sha256 | as `annotation.text` says |
| published | the text's time |
| known_at | from when a reader could have it |
| label | the class; null where nobody was in force |
| probability | of that class |
| probability_CLASS | of each class, to 6 decimals; null for a class that the student did not know |
| student | such as `1b @ 5000` |
| adapter | key of the student's artifact |
| adapter_cutoff | the student and the word that put it into force know nothing of this time or later |
| workload_version | SHA-256 of the prompt and classes that the student was trained with |
| mode | point_in_time or champion |
| reason | why there is no label; null where there is one |

Rows are sorted by (published, id), and lie in row groups of `ROW_GROUP`. A file holds nothing of when or
where it was written: the same texts and decisions give the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

# Raised when columns change their names, types or meaning; readers find it in the file's metadata.
SCHEMA_VERSION = 1
# Raised when the code gives other labels for the same text and adapter: rows are then made anew.
CODE_VERSION = 1
ROW_GROUP = 8192
DECIMALS = 6
# The folder of the Parquet files in an output; readers of Parquet take it whole.
ROWS = "rows"
METADATA_KEY = b"flywheel"
_TIME = pa.timestamp("ms", tz="UTC")
_ID_DIGITS = 32


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def row_id(text_sha256: str, published: int) -> str:
    """Return the id of a text of a time: 32 hex digits.

    Args:
        text_sha256: see `text_hash`.
        published: unix seconds.
    """
    return hashlib.sha256(f"{published} {text_sha256}".encode()).hexdigest()[:_ID_DIGITS]


def path_of(shard: str) -> str:
    """Return the file of a shard, `2019-03-01`, in the output: `rows/month=2019-03/from-01.parquet`."""
    return f"{ROWS}/month={shard[:7]}/from-{shard[8:]}.parquet"


def shard_in(path: str) -> str:
    """Return the shard whose file that is."""
    _, month, name = path.split("/")
    return f"{month.removeprefix('month=')}-{name.removeprefix('from-').removesuffix('.parquet')}"


def class_columns(classes: Iterable[str]) -> dict[str, str]:
    """Return the column of each class: `probability_` and its name in small letters, digits and `_`.

    Two classes that would have one column get a number behind it.
    """
    columns: dict[str, str] = {}
    for label in classes:
        name = base = f"probability_{re.sub('[^a-z0-9]+', '_', label.lower()).strip('_') or 'class'}"
        number = 2
        while name in columns.values():
            name, number = f"{base}_{number}", number + 1
        columns[label] = name
    return columns


@dataclass(frozen=True)
class Form:
    """What all files of an output have in common.

    Attributes:
        classes: that any of its champions knew, in the order of their columns.
        keeps_text: rows have the text itself, else its hash.
        mode: point_in_time or champion.
    """

    classes: tuple[str, ...]
    keeps_text: bool
    mode: str

    @property
    def schema(self) -> pa.Schema:
        """The columns, with the form and the versions of schema and code in the metadata."""
        columns = class_columns(self.classes)
        about = {
            "schema_version": SCHEMA_VERSION,
            "code_version": CODE_VERSION,
            "mode": self.mode,
            "text": "keep" if self.keeps_text else "hash",
            "classes": columns,
        }
        fields = [
            ("id", pa.string()),
            ("text" if self.keeps_text else "text_sha256", pa.string()),
            ("published", _TIME),
            ("known_at", _TIME),
            ("label", pa.string()),
            ("probability", pa.float32()),
            *((name, pa.float32()) for name in columns.values()),
            ("student", pa.string()),
            ("adapter", pa.string()),
            ("adapter_cutoff", _TIME),
            ("workload_version", pa.string()),
            ("mode", pa.string()),
            ("reason", pa.string()),
        ]
        return pa.schema(fields, metadata={METADATA_KEY: orjson.dumps(about, option=orjson.OPT_SORT_KEYS)})

    def table(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        """Return rows as a table; times are unix seconds, `probabilities` a mapping by class."""
        schema, columns = self.schema, class_columns(self.classes)
        by_class = {name: label for label, name in columns.items()}
        given = [row["probabilities"] for row in rows]
        arrays = []
        for field in schema:
            if field.name in by_class:
                label = by_class[field.name]
                values: list[Any] = [of_row.get(label) for of_row in given]
            elif field.name == "mode":
                values = [self.mode] * len(rows)
            else:
                name = field.name
                values = [row.get(name) for row in rows]
            if field.type == _TIME:
                values = [None if one is None else one * 1000 for one in values]
            arrays.append(pa.array(values, field.type))
        return pa.Table.from_arrays(arrays, schema=schema)


def about(schema: pa.Schema) -> dict[str, Any]:
    """Return what a file says of its form; empty of a file that no flywheel wrote."""
    said = (schema.metadata or {}).get(METADATA_KEY)
    return dict(orjson.loads(said)) if said else {}
