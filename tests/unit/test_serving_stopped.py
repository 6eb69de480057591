"""A champion that a person stopped: who answers then, with a cascade and without, and after it is resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.evaluation.cascade import Cascade
from flywheel.promotion.champion import Champion
from flywheel.promotion.transitions import decide, promoted, resumed, stopped
from flywheel.runs.run import Run
from flywheel.serving.app import Serving
from tests.unit import champion_endpoint
from tests.unit.champion_endpoint import (
    HEADLINES,
    SIZES,
    WORKLOAD,
    ask,
    champion_in,
    config_of,
    of_user,
    serving_name,
    until,
    wait,
    whole_of,
)
from tests.unit.teacher_servers import Script, completion, served

folder, url = champion_endpoint.folder, champion_endpoint.url  # fixtures
WHOSE = (WORKLOAD.id, "desk")


def test_a_champion_that_is_stopped_answers_nothing_until_it_is_resumed(folder: Path, url: str) -> None:
    root = ArtifactRoot(str(folder / "artifacts"))
    decide(root, *WHOSE, lambda state: stopped(state, "Ada", "odd answers"), by="Ada")
    until(lambda: httpx.get(f"{url}/health/ready").json()["stopped"])
    refused = ask(url, of_user(HEADLINES[0].text))
    assert refused.status_code == 503
    assert "Ada stopped the champion" in refused.json()["error"]["message"]
    assert "(odd answers)" in refused.json()["error"]["message"]
    ready = httpx.get(f"{url}/health/ready")  # warm: pods stay, and say why they refuse
    assert (ready.status_code, list(ready.json()["champions"])) == (200, [WORKLOAD.id])
    decide(root, *WHOSE, resumed, by="Bo")
    until(lambda: not httpx.get(f"{url}/health/ready").json()["stopped"])
    assert ask(url, of_user(HEADLINES[0].text)).status_code == 200


@pytest.fixture
def script() -> Script:
    """The teacher: what it is asked, and what it says."""
    return Script([(200, {}, completion("[[[labour issues]]]"))])


@pytest.fixture
def cascade_url(folder: Path, tmp_path: Path, script: Script) -> Iterator[str]:
    """An endpoint with a cascade, whose champion is sure of everything."""
    put_sure_one_into_force(folder, champion_in(folder))
    with served(script) as teacher:
        config = config_of(
            folder,
            serving={"cascade": {"agreement": 0.9}, "log_folder": str(tmp_path)},
            teacher={"base_url": f"{teacher}/v1"},
        )
        with served(Serving(config).app()) as address:
            until(lambda: httpx.get(f"{address}/health/ready").status_code == 200)
            yield address


def put_sure_one_into_force(folder: Path, champion: Champion) -> Champion:
    cascade = Cascade(target=0.9, threshold=0.0, share=1.0, records=100, reason="")
    sure = champion.model_copy(update={"cascade": cascade})
    root = ArtifactRoot(str(folder / "artifacts"))
    decide(root, *WHOSE, lambda state: promoted(state, sure), by="pat")
    return sure


def test_with_a_cascade_the_teacher_answers_all_while_the_champion_is_stopped(
    folder: Path, cascade_url: str, script: Script
) -> None:
    root = ArtifactRoot(str(folder / "artifacts"))
    first = champion_in(folder)
    sizes = {size: f"small@{size}" for size in SIZES}

    def answer(text: str, model: str = WORKLOAD.id) -> tuple[str, str]:
        response = ask(cascade_url, of_user(text), model)
        assert response.status_code == 200, response.text
        return response.json()["flywheel"]["student"], response.headers["x-flywheel-adapter"]

    assert answer(HEADLINES[0].text) == (serving_name(folder), first.adapter)
    assert script.calls == []
    decide(root, *WHOSE, lambda state: stopped(state, "Ada", "odd answers"), by="Ada")
    until(lambda: httpx.get(f"{cascade_url}/health/ready").json()["stopped"])
    for place, headline in enumerate(HEADLINES[:5]):
        response = ask(cascade_url, of_user(headline.text)).json()
        assert response["choices"][0]["message"]["content"] == "[[[labour issues]]]"
        assert response["flywheel"]["student"] == "teacher"
        assert len(script.calls) == place + 1
    assert answer(HEADLINES[0].text) == ("teacher", "teacher")
    assert len(script.calls) == 5  # the same text is not paid for twice
    # A candidate answers by its own name; and it is told whom the champion's name is answered by: nobody of ours.
    assert answer(HEADLINES[0].text, sizes[first.size]) == (serving_name(folder), first.adapter)
    assert f'adapter="{first.adapter}"' not in httpx.get(f"{cascade_url}/metrics").text

    # Whoever is promoted meanwhile answers nothing either.
    other = whole_of(Run(root, "night"), next(size for size in SIZES if size != first.size))
    other = put_sure_one_into_force(folder, other)
    wait(cascade_url, other.adapter)
    assert answer(HEADLINES[6].text) == ("teacher", "teacher")
    decide(root, *WHOSE, resumed, by="Bo")
    until(lambda: not httpx.get(f"{cascade_url}/health/ready").json()["stopped"])
    asked = len(script.calls)
    assert answer(HEADLINES[7].text) == (other.name, other.adapter)
    assert len(script.calls) == asked


def test_a_teacher_that_gives_no_answer_then_is_told_beside_who_stopped_the_champion(
    folder: Path, cascade_url: str, script: Script
) -> None:
    root = ArtifactRoot(str(folder / "artifacts"))
    script.steps[:] = [(400, {}, b'{"error": "no such model"}')]
    decide(root, *WHOSE, lambda state: stopped(state, "Ada", "odd answers"), by="Ada")
    until(lambda: httpx.get(f"{cascade_url}/health/ready").json()["stopped"])
    refused = ask(cascade_url, of_user("Acme delays its merger"))
    decide(root, *WHOSE, resumed, by="Bo")
    assert refused.status_code == 503
    said = refused.json()["error"]["message"]
    assert "Ada stopped the champion" in said
    assert "and the teacher gives no answer" in said
