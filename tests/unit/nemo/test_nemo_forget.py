"""A client that is forgotten leaves nothing on NeMo, and another one keeps what it has there."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flywheel.forgetting.base import Whose
from flywheel.forgetting.forget import find, forget
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from tests.unit.nemo.nemo_jobs import Start
from tests.unit.nemo.test_nemo_serving import make_champion, models_of, serve_it


def test_what_a_clients_runs_have_put_on_nemo_goes_with_the_client(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.forgetting.machine_places._airflow_environment", lambda: None)
    flywheel = start()
    config = flywheel.config.model_copy(update={"client_id": "acme"})
    plan = make_plan(config, run_id="r", cutoff=datetime.now(UTC), workload_id="news")
    run = Run.create(plan)
    made = flywheel.run(flywheel.customize_spec())
    make_champion(flywheel, made)
    serve_it(flywheel)
    state = flywheel.server.stand_in.state
    assert len(models_of(flywheel)) == 2 and state.all("repositories") and flywheel.server.deployed
    run.root.write_json(f"{run.path}/stages/promote.json", {"result": {}})
    findings = find(config, Whose("acme"))
    assert [item.id for item in findings.items["nemo"]] == ["r"]
    forget(config, findings, by="Ada")
    assert models_of(flywheel) == [] and flywheel.server.deployed == []
    assert list(state.all("repositories")) == []
    assert not flywheel.root.find("adapters", made.adapter)
