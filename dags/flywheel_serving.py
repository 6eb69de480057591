"""# The champion on NeMo

With runtime `nemo`, has a champion served by a NIM whenever it has changed: promoted by a person, or rolled
back. A run of the flywheel does that for its own champion by itself; then there is nothing to do here.
"""

from __future__ import annotations

from airflow.sdk import dag

from flywheel.orchestration import CHAMPION_ASSET, beside, read_config, read_runtime

runtime = read_runtime(read_config())


@dag(
    dag_display_name="flywheel serving",
    schedule=[CHAMPION_ASSET],
    doc_md=__doc__,
    **beside(),
)
def flywheel_serving() -> None:
    """Serve what is in force."""
    runtime.serve()


if runtime.serve():
    flywheel_serving()
