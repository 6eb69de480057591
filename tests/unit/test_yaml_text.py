"""YAML within bounds: aliases are counted as what they stand for, and no tag makes an object."""

from pathlib import Path

import pytest

from flywheel.common.errors import FlywheelError
from flywheel.config import load_config
from flywheel.config.yaml_text import BadYamlError, read_yaml
from flywheel.workloads.workload import Workload


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)),
            "aliases",
        ),
        ("a: &a [*a]\n", "line 1: an anchor that holds itself"),
        ("a:\n  b: " + "[" * 60 + "]" * 60, "line 2: nested too deeply"),
        ("a: !!python/object/apply:os.system ['id']\n", "could not determine a constructor"),
        ("a: !!bool x\n", "not valid YAML"),
        ("a: !!int ''\n", "not valid YAML"),
        ("a: !!timestamp x\n", "not valid YAML"),
        ("a: 2024-13-45\n", "not valid YAML"),
        ('a: 1\nb: "x\\0"\n', "line 2: a text with a NUL"),
        ("a: " + "x" * 2_000_000, "more than 2,000,000 bytes"),
    ],
)
def test_a_file_that_would_grow_or_is_no_data_is_refused_with_its_line(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(BadYamlError, match=str(path)) as caught:
        read_yaml(path)
    assert said in str(caught.value)


def test_anchors_that_people_use_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "base: &base {gpus: 1, tag: x}\nnims:\n  - {<<: *base, name: a}\n  - {<<: *base, name: b}\n"
    )
    data, node = read_yaml(path)
    assert data["nims"] == [{"gpus": 1, "tag": "x", "name": "a"}, {"gpus": 1, "tag": "x", "name": "b"}]
    assert node is not None


@pytest.mark.parametrize("read", [load_config, Workload.load])
def test_a_wrong_key_is_told_in_one_form_in_config_and_workload_files(read, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("workload_id: news\nnims:\nnims:\n")
    with pytest.raises(FlywheelError, match=rf"^{path}, line 3: key 'nims' is there already in line 2$"):
        read(path)
    path.write_text("systm: x\nnimz: []\n")
    nearest = r"line \d: (systm|nimz): no such key; the nearest valid key is '(system|nims)'$"
    with pytest.raises(FlywheelError, match=rf"(?m)^{path}, {nearest}"):
        read(path)
