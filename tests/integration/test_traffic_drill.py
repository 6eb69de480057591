"""Twenty kills at random of the endpoint, of what ships its log, and of the store, under load."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import orjson
import pytest

from flywheel.serving.traffic import ship
from flywheel.serving.traffic.shipping import traffic_folder
from flywheel.stores import open_store
from tests.unit.teacher_servers import Script, completion, served
from tests.unit.test_traffic import ask, config_of, entries, living_endpoint

pytestmark = pytest.mark.slow

KILLS = 20
CALLERS = 4
# Ships what the endpoint leaves, all the time, as another replica would.
SHIPPER = """
import sys, time
from flywheel.config import load_config
from flywheel.common.errors import StoreError
from flywheel.serving.traffic import ship
from flywheel.serving.traffic.shipping import traffic_folder
from flywheel.stores import open_store
config = load_config()
while True:
    try:
        with open_store(config.store) as store:
            ship(traffic_folder(config), store)
    except StoreError:
        pass
    time.sleep(0.05)
"""


def test_every_answered_request_is_in_the_store_once_after_twenty_kills(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    choose = random.Random(seed)
    with served(Script([(200, {}, completion("[[[labour issues]]]"))])) as address:
        config = config_of(tmp_path, teacher={"base_url": f"{address}/v1"})
        (tmp_path / "config.yaml").write_bytes(
            orjson.dumps(config.model_dump(mode="json", exclude_unset=True))
        )
        environment = {**os.environ, "FLYWHEEL_CONFIG": str(tmp_path / "config.yaml")}
        ids: list[str] = []
        done = False

        def ships() -> subprocess.Popen[bytes]:
            return subprocess.Popen([sys.executable, "-c", SHIPPER], env=environment)

        def load(caller: int) -> None:
            number = 0
            while not done:
                number += 1
                try:
                    ids.append(ask(url, f"Acme cuts {number % 7} jobs").json()["id"])
                except (httpx.HTTPError, KeyError, ValueError):
                    time.sleep(0.05)

        endpoint, url = living_endpoint(tmp_path)
        shipper, killed = ships(), Counter[str]()
        with ThreadPoolExecutor(CALLERS) as threads:
            callers = [threads.submit(load, caller) for caller in range(CALLERS)]
            try:
                for _ in range(KILLS):
                    time.sleep(choose.uniform(0.1, 1.5))
                    target = choose.choice(["endpoint", "logging", "store"])
                    killed[target] += 1
                    if target == "endpoint":
                        endpoint.send_signal(signal.SIGKILL)
                        endpoint.wait()
                        endpoint, url = living_endpoint(tmp_path)
                    elif target == "logging":
                        shipper.send_signal(signal.SIGKILL)
                        shipper.wait()
                        shipper = ships()
                    else:  # an embedded store is away while another holds its file
                        with sqlite3.connect(tmp_path / "records.db") as other:
                            other.execute("PRAGMA busy_timeout = 20000")
                            other.execute("BEGIN EXCLUSIVE")
                            time.sleep(choose.uniform(0.5, 2.0))
                            other.rollback()
            finally:
                done = True
                for caller in callers:
                    caller.result()
                for process in (endpoint, shipper):
                    process.kill()
                    process.wait()
    with open_store(config.store) as store:
        ship(traffic_folder(config), store)
    there = Counter(one.id for one in entries(config))
    print(f"{len(ids):,} answered, {sum(there.values()):,} in the store; {dict(killed)}")
    assert len(ids) == len(set(ids)) > 50
    assert set(ids) <= set(there)
    assert set(there.values()) == {1}
