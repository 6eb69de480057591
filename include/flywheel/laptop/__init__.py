"""`make run`: the whole of Airflow on one machine, without a server to install, and the wheel turned once.

Nothing in here is needed where Airflow runs already: put `dags/` and `plugins/` where that Airflow looks.
"""

from __future__ import annotations


def up(experiment: str = "", *, nemo_stand_in: bool = False) -> int:
    """Start Airflow, turn the wheel once, show the table and leave the UI up; return the exit code."""
    from flywheel.laptop.up import up

    return up(experiment, nemo_stand_in=nemo_stand_in)


def prepare() -> None:
    """Make Airflow's settings and its metadata database, so that `up` starts quickly."""
    from flywheel.laptop.home import prepare

    prepare()
