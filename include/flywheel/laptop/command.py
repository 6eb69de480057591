"""`./airflow ...`: Airflow's own command line on the Airflow of `make run`, whatever the shell says."""

from __future__ import annotations

import os
import sys

from flywheel.laptop import home


def main() -> None:
    """Become `airflow ...` with the settings in state/airflow, which are made first where there are none."""
    if not home.is_prepared():
        sys.stderr.write(f"first use: making Airflow's database in {home.airflow_home()}\n")
        home.prepare()
    command = [sys.executable, "-m", "airflow", *sys.argv[1:]]
    os.execve(sys.executable, command, home.environment())  # noqa: S606


if __name__ == "__main__":
    main()
