"""What the page takes from Python: types of the API's answers (from its OpenAPI document), titles of metrics.

    python scripts/page_types.py            writes ui/src/schema.ts (`make ui` does)
    python scripts/page_types.py --check    fails where the file is another one

Node and the page's packages (`npm ci` in ui/) are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

UI = Path(__file__).parents[1] / "ui"
WRITTEN = UI / "src" / "schema.ts"
HEAD = "// Made from the API's OpenAPI document by scripts/page_types.py (`make ui`).\n"


def document() -> dict[str, Any]:
    """Return the OpenAPI document that the API serves at `/flywheel/openapi.json`."""
    sys.path.insert(0, str(UI.parent / "include"))
    os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "false")
    from flywheel.web.app import create_app
    from flywheel.web.routes.documentation import document as described

    return described(create_app(), "")


def types_of(described: dict[str, Any]) -> str:
    """Return the TypeScript types of a document's schemas.

    Raises:
        RuntimeError: the generator is not there, or refuses the document.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "openapi.json", Path(folder) / "schema.ts"
        source.write_text(json.dumps({**described, "paths": {}}))  # the page builds its own addresses
        names = ["--root-types", "--root-types-no-schema-prefix"]
        command = ["npx", "--no-install", "openapi-typescript", str(source), *names, "-o", str(made)]
        done = subprocess.run(command, cwd=UI, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"openapi-typescript: {done.stderr or done.stdout}")
        return HEAD + made.read_text() + metrics()


def metrics() -> str:
    """Return the titles of the metrics, by name, as the page shows them where a report has none."""
    from flywheel.workloads.metrics import METRICS

    titles = json.dumps(
        {name: asdict(metric) for name, metric in METRICS.items()}, indent=2, ensure_ascii=False
    )
    return f"\nexport const METRICS: Record<string, MetricPart> & {{ f1_weighted: MetricPart }} = {titles};\n"


def main() -> None:
    """Write the types, or compare them with what is written."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    made = types_of(document())
    if parser.parse_args().check:
        if WRITTEN.read_text() != made:
            sys.exit("ui/src/schema.ts is not what the API's OpenAPI document makes: run `make ui`")
        return
    WRITTEN.write_text(made)


if __name__ == "__main__":
    main()
