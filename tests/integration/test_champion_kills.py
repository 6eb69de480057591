"""Kill -9 of who decides on a champion loses no decision: benchmarks.kills at its least."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(300)
def test_killed_at_random_moments_no_decision_is_lost_and_the_champion_is_whole() -> None:
    command = [sys.executable, "-m", "benchmarks.kills", "--champion", "--quick"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["returned"] > 0
    assert (result["kills"], result["lost"], result["broken"]) == (10, 0, 0)
