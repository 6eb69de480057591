"""What the cluster's tests do on a machine whose disk is too full for an image."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.e2e.cluster import ClusterUnavailableError, NoRoomError, images
from tests.e2e.conftest import _skipped_where_the_machine_cannot


@pytest.mark.parametrize(("built", "needed"), [(False, 24), (True, 12)])
def test_an_image_that_the_disk_has_no_room_for_is_not_built(
    built: bool, needed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_exists", lambda image: built)
    free = {"gigabytes": needed}
    monkeypatch.setattr(
        images.shutil, "disk_usage", lambda _: SimpleNamespace(free=free["gigabytes"] * 10**9)
    )
    images.check_room(tmp_path, "student")
    free["gigabytes"] -= 1
    with pytest.raises(NoRoomError, match=f"student needs {needed} GB of free disk .* has {needed - 1} GB"):
        images.check_room(tmp_path, "student")


def test_too_full_a_disk_skips_the_tests_of_an_image_in_ci_too_and_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.skip.Exception, match="24 GB"), _skipped_where_the_machine_cannot():
        raise NoRoomError("the image student needs 24 GB")
    with pytest.raises(ClusterUnavailableError, match="Go"), _skipped_where_the_machine_cannot():
        raise ClusterUnavailableError("building Kubernetes needs Go")
