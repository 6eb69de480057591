"""`flywheel up --nemo-stand-in`: the config's experiment, with its jobs on a stand-in for NeMo."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

from flywheel.config import load_config, resolve_path
from flywheel.config.loading import CONFIG_VARIABLE, default_config_path, find_path
from flywheel.laptop.processes import free_port

CONFIG_FILE = "state/nemo/config.yaml"
PORT = 8398


def use_stand_in() -> list[str]:
    """Put a config in force that has the jobs run on the stand-in; return the stand-in's command.

    It is the config in force with other addresses of NeMo, in state/nemo/config.yaml.

    Raises:
        ConfigError: the config is wrong.
    """
    config = load_config()
    path = default_config_path()
    port = free_port(PORT)
    url = f"http://127.0.0.1:{port}"
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    data["runtime"] = {**data.get("runtime", {}), "type": "nemo"}
    data["runtime"]["nemo"] = {"poll_seconds": 1.0, **data["runtime"].get("nemo", {})}
    data["nmp_config"] = {
        **data.get("nmp_config", {}),
        "nemo_base_url": f"{url}/nemo",
        "nim_base_url": f"{url}/nim",
        "datastore_base_url": f"{url}/datastore",
    }
    file = Path(resolve_path(CONFIG_FILE))
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".aside")
    aside.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    os.replace(aside, file)
    os.environ[CONFIG_VARIABLE] = str(file)
    command = [sys.executable, "-m", "flywheel_stand_ins", "nemo", "--port", str(port)]
    for student in config.students:
        command += ["--model", f"{student.model_name}={find_path(student.weights)}"]
    return command
