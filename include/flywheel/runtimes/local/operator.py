"""The task of a job on this machine."""

from __future__ import annotations

from flywheel.runtimes.job_operator import JobOperator


class ProcessOperator(JobOperator):
    """Runs a job in a process of this machine, and holds its worker slot until that has ended."""
