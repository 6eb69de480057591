"""`flywheel customize SPEC` and `flywheel evaluate SPEC` as a runtime starts them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, JobError, StudentError
from flywheel.jobs.progress import Progress, ProgressCallback, ProgressFile
from flywheel.jobs.spec import CustomizeSpec
from flywheel.runtimes import job_command
from flywheel.runtimes.base import CRASHED, REFUSED
from flywheel.stages import customize as customize_stage


class Result:
    def __init__(self, **more: str) -> None:
        self.more = more

    def model_dump(self, mode: str) -> dict[str, int | str]:
        return {"steps": 3, **self.more}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    asked = CustomizeSpec.model_validate(
        {
            "artifact_root": str(tmp_path),
            "student": {"model_name": "acme/one", "weights": str(tmp_path / "weights")},
            "dataset": "d",
            "size": 10,
        }
    )
    path = tmp_path / "customize.spec.json"
    path.write_text(asked.model_dump_json())
    return path


def give(
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException | None = None,
    during: Callable[[], object] = lambda: None,
    **more: str,
) -> None:
    def customize(spec: CustomizeSpec, progress: ProgressCallback) -> Result:
        progress(Progress(1, 3, 2.5, None, 10.0, 4.0))
        during()
        if error:
            raise error
        return Result(**more)

    monkeypatch.setattr(customize_stage, "customize", customize)


def test_the_result_is_written_beside_the_spec(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch)
    assert job_command.main(["customize", str(spec)]) == 0
    written = json.loads(spec.with_name("customize.json").read_text())
    assert written["result"] == {"steps": 3}
    assert written["started_at"] <= written["ended_at"]


def test_a_job_keeps_what_it_used_with_all_gpus_that_it_held(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = json.loads(spec.read_text())
    spec.write_text(json.dumps({**asked, "student": {**asked["student"], "gpus": 4}}))
    for device, gpus in (("cpu", 0), ("NVIDIA H200", 4)):
        give(monkeypatch, during=lambda: sum(range(2_000_000)), device=device)
        assert job_command.main(["customize", str(spec)]) == 0
        used = json.loads(spec.with_name("customize.json").read_text())["used"]
        assert used["cpu_seconds"] > 0
        assert used["gpu_seconds"] == pytest.approx(used["wall_seconds"] * gpus, abs=0.01)


def test_a_running_job_says_how_far_it_is(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    file = spec.with_name("customize.progress.json")
    give(monkeypatch, during=lambda: seen.append(json.loads(file.read_text())))
    assert job_command.main(["customize", str(spec)]) == 0
    assert seen[0]["step"] == 1
    assert seen[0]["steps"] == 3
    assert seen[0]["losses"] == [{"step": 1, "loss": 2.5, "val_loss": None}]
    assert not file.exists()


def test_the_curve_of_a_running_job_has_each_validation_once(tmp_path: Path) -> None:
    written = ProgressFile(ArtifactRoot(str(tmp_path)), "job.progress.json")
    steps = 500
    for step in range(1, steps + 1):
        validated = None if step < 7 else 0.4 if step < 300 else 0.3
        written(Progress(step, steps, 1 / step, validated, 10.0, 4.0))
    points = json.loads((tmp_path / "job.progress.json").read_text())["losses"]
    validations = {point["step"]: point["val_loss"] for point in points if point["val_loss"] is not None}
    assert validations == {7: 0.4, 300: 0.3}
    assert points[0]["step"] == 1
    assert points[-1]["step"] == steps
    assert len(points) <= 200


def test_a_relative_path_starts_where_one_is(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch)
    monkeypatch.chdir(spec.parent)
    assert job_command.main(["customize", spec.name]) == 0
    assert spec.with_name("customize.json").exists()


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StudentError("no weights in /x"), REFUSED, "error: no weights in /x"),
        (JobError("stopped by SIGTERM"), CRASHED, "error: stopped by SIGTERM"),
        (ValueError("oh"), CRASHED, "error: ValueError: oh"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    spec: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    line: str,
) -> None:
    give(monkeypatch, error)
    assert job_command.main(["customize", str(spec)]) == code
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert not spec.with_name("customize.json").exists()


def test_a_spec_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"customize\.spec\.json: no such file"):
        job_command.run_job("customize", str(tmp_path / "customize.spec.json"))


def test_a_file_that_is_no_spec_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"ends in \.spec\.json"):
        job_command.run_job("customize", str(tmp_path / "customize.json"))


def test_a_job_whose_weights_are_elsewhere_is_not_done_here(spec: Path) -> None:
    assert not job_command.is_done("customize", str(spec))
