"""The TF-IDF baseline: the same split, fitted once."""

from pathlib import Path

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.report import baseline as module
from flywheel.report.baseline import baseline
from flywheel.workloads.workload import Workload
from tests.unit.finished_run import WORKLOAD, write_dataset


@pytest.fixture
def root(tmp_path: Path) -> ArtifactRoot:
    return ArtifactRoot(str(tmp_path))


def test_more_records_are_better_and_sizes_beyond_the_split_are_left_out(root: ArtifactRoot) -> None:
    rows = baseline(root, write_dataset(root, texts=200), [4, 200, 1000], Workload.load(WORKLOAD))
    assert [row.size for row in rows] == [4, 200]
    assert rows[0].score < rows[1].score
    assert rows[1].score > 0.9


def test_a_split_is_fitted_once(root: ArtifactRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, workload = write_dataset(root), Workload.load(WORKLOAD)
    first = baseline(root, dataset, [10, 20], workload)

    def fitted_again(*_: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(module, "_fit", fitted_again)
    assert baseline(root, dataset, [20, 10], workload) == first


def test_one_class_alone_has_no_baseline(root: ArtifactRoot) -> None:
    assert baseline(root, write_dataset(root), [1], Workload.load(WORKLOAD)) == []


def test_prompts_of_an_application_are_read_without_a_workload(root: ArtifactRoot) -> None:
    assert [row.size for row in baseline(root, write_dataset(root), [20], None)] == [20]
