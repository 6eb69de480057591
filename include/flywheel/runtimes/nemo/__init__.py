"""Runtime `nemo`: jobs run on NVIDIA's NeMo microservices, through their official client.

A job has three parts: `prepare` uploads what it needs, `accompany` has the services do it, `keep` makes of
what they gave what the other runtimes leave: an adapter, an evaluation, a result. The first and the last run
where tasks run; the middle one waits, and runs in Airflow's triggerer.
"""

from __future__ import annotations

from importlib.util import find_spec

from flywheel.common.errors import ConfigError

for _name in ("nemo_microservices", "huggingface_hub"):
    if find_spec(_name) is None:
        raise ConfigError(
            f"runtime.type nemo: the package {_name} is not installed; install requirements-nemo.txt"
        )
