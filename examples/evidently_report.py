"""Evidently's report of drift: a night of production beside the champion's own eval set.

    flywheel watch --tables tables
    uv run --no-project --with evidently==0.7.23 --with pandas==3.0.0 \\
        python examples/evidently_report.py tables drift.html

In an environment of its own: Evidently 0.7.23 does not import beside the pandas 3.1 that flywheel is locked
with. It says what moved; whether that is more than chance over a year of nights is flywheel's own alarm
(docs/production.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset


def main(folder: Path, page: Path) -> None:
    """Write the report as a page."""
    tables = [pd.read_csv(folder / name) for name in ("production.csv", "eval.csv")]
    # What neither knows cannot have moved.
    known = [name for name in tables[0].columns if all(table[name].notna().any() for table in tables)]
    definition = DataDefinition(
        numerical_columns=[name for name in known if name != "class"],
        categorical_columns=["class"],
    )
    production, evaluated = (
        Dataset.from_pandas(table[known], data_definition=definition) for table in tables
    )
    Report([DataDriftPreset()]).run(production, evaluated).save_html(str(page))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
