"""Each example runs, offline, and ends in a figure that makes sense."""

from pathlib import Path

import pytest

from examples import own_data, own_runtime, research, sentiment
from examples.event_study.__main__ import main as event_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder that they share, as MLflow's database is made once."""
    return tmp_path_factory.mktemp("examples")


def place(folder: Path, name: str) -> Path:
    (folder / name).mkdir(exist_ok=True)
    return folder / name


def test_own_data_ends_in_a_champion(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = own_data.main(place(folder, "own_data"))
    assert 0.8 < best < 1.0
    assert f"Best Weighted F1: {best:.3f}" in capsys.readouterr().out
    assert (folder / "own_data/artifacts/champions/tickets/desk").is_dir()


def test_a_research_script_reads_a_finished_night(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needed = research.main(place(folder, "own_data"))
    assert needed in research.SIZES[1:]
    assert f"{needed:,} records are enough" in capsys.readouterr().out


def test_a_second_workload_asks_its_teacher(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = sentiment.main(place(folder, "sentiment"))
    assert 0.7 < best < 1.0
    assert "Neutral: F1" in capsys.readouterr().out


def test_a_runtime_of_ones_own_runs_the_jobs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert own_runtime.main(place(folder, "own_runtime")) == 2
    said = capsys.readouterr().out
    assert "2 jobs ran at the lowest priority: customize tfidf @ 60, evaluate tfidf @ 60." in said


def test_an_event_study_is_fooled_by_look_ahead_and_not_point_in_time(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    honest, ahead = event_study(place(folder, "event_study"), folder / "page")
    assert ahead.later[1] > 0  # a rise that nobody could have bought, and its band is above it
    assert honest.later[1] < 0 < honest.later[2]
    page = (folder / "page/index.html").read_text()
    for picture in ("events.png", "lookahead.png"):
        assert f'src="{picture}"' in page
        assert (folder / "page" / picture).read_bytes().startswith(b"\x89PNG")
    assert "0 of them ahead, 0 checks failed" in page
    assert "look-ahead: +" in capsys.readouterr().out
