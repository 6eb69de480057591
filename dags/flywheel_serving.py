"""# The champion on NeMo

Where config.yaml or an experiment has runtime `nemo`, has its champion served by a NIM whenever it has
changed: promoted by a person, or rolled back. A run of the flywheel does that for its own champion by itself;
then there is nothing to do here.
"""

from __future__ import annotations

from airflow.sdk import dag

from flywheel.orchestration import CHAMPION_ASSET, beside, serving_runtime

runtime = serving_runtime()


@dag(
    dag_display_name="flywheel serving",
    schedule=[CHAMPION_ASSET],
    doc_md=__doc__,
    **beside(),
)
def flywheel_serving() -> None:
    """Serve what is in force."""
    runtime.serve()


if runtime:
    flywheel_serving()
