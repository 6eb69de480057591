"""`flywheel label-texts`: labels beside the texts of a file, whole or not at all, and not twice after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars
import pyarrow
import pytest
from filelock import FileLock
from pyarrow import parquet
from typer.testing import CliRunner

from flywheel.annotation import label_file as labelling
from flywheel.annotation.champion import ChampionModel
from flywheel.annotation.label_file import label_file
from flywheel.annotation.text_files import open_texts
from flywheel.cli.main import app
from flywheel.common.errors import SourceError
from tests.unit import promoted_desk
from tests.unit.promoted_desk import LINEAR, WORKLOAD, promoted

TEXTS = ["Acme raises its quarterly dividend", 'Bolt cuts its outlook, "sharply"', "", "Coda is quiet"]
COLUMNS = ["label", "probability", *WORKLOAD.classes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with promoted(tmp_path_factory.mktemp("desk"), LINEAR) as home:
        yield home


model = promoted_desk.model  # a fixture


def command(folder: Path, file: Path, *options: str) -> Any:
    whose = ["--workload", WORKLOAD.id, "--client", "desk", "--artifacts", str(folder / "artifacts")]
    return CliRunner().invoke(app, ["label-texts", str(file), *whose, *options])


def expected(model: ChampionModel) -> list[str | None]:
    return list(model.predict(TEXTS))


def write_csv(path: Path, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["id", "text"], *([str(place), text] for place, text in enumerate(TEXTS))])
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_file_keeps_its_columns_and_gets_the_labels(
    folder: Path, model: ChampionModel, tmp_path: Path, delimiter: str
) -> None:
    done = command(folder, write_csv(tmp_path / "news.csv", delimiter))
    assert done.exit_code == 0, done.output
    with (tmp_path / "news.labels.csv").open(newline="") as file:
        header, *rows = csv.reader(file, delimiter=delimiter)
    assert header == ["id", "text", *COLUMNS]
    assert [row[1] for row in rows] == TEXTS
    assert [row[2] or None for row in rows] == expected(model)
    likely = model.predict_proba(TEXTS)
    assert [float(value) for value in rows[0][4:]] == pytest.approx(likely[0].tolist(), abs=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["news.csv", "news.labels.csv"]


def test_a_line_of_json_stays_as_it_was_and_gets_the_labels(
    folder: Path, model: ChampionModel, tmp_path: Path
) -> None:
    exact = 123456789012345678901234567890
    lines = [f'{{"n": {exact}, "headline": {json.dumps(text)}}}' for text in TEXTS] + ['{"n": 1}', "{}"]
    (tmp_path / "news.jsonl").write_text("\n".join(lines) + "\n\n")
    done = command(folder, tmp_path / "news.jsonl", "--column", "headline")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "news.labels.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [*expected(model), None, None]
    assert rows[0]["n"] == exact
    assert list(rows[0]) == ["n", "headline", *COLUMNS]
    assert "3 of them without a label" in done.output


def test_a_parquet_file_keeps_its_columns_and_types(
    folder: Path, model: ChampionModel, tmp_path: Path
) -> None:
    table = pyarrow.table(
        {"id": pyarrow.array([1, 2, 3, 4], pyarrow.int8()), "text": [*TEXTS[:2], None, "Coda"]}
    )
    parquet.write_table(table, tmp_path / "news.parquet")
    assert command(folder, tmp_path / "news.parquet").exit_code == 0
    found = polars.read_parquet(tmp_path / "news.labels.parquet")
    assert found.columns == ["id", "text", *COLUMNS]
    assert found.schema["id"] == polars.Int8
    assert found["label"].to_list()[:3] == [*model.predict(TEXTS[:2]), None]
    assert found["probability"].null_count() == 1


def test_a_text_a_line_gives_a_csv_file_and_standard_output_has_it_alone(
    folder: Path, model: ChampionModel, tmp_path: Path
) -> None:
    (tmp_path / "news.txt").write_text("\n".join(TEXTS) + "\n")
    script = [sys.executable, "-m", "flywheel.cli.main", "label-texts", str(tmp_path / "news.txt")]
    script += ["--workload", WORKLOAD.id, "--client", "desk", "--artifacts", str(folder / "artifacts")]
    done = subprocess.run([*script, "--output", "-"], capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["text"] for row in rows] == TEXTS
    assert [row["label"] or None for row in rows] == expected(model)
    assert "4 rows, 1 of them without a label" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["news.txt"]


class TestGoingOn:
    def test_after_a_kill_finished_batches_are_found_and_the_file_is_the_same(
        self, folder: Path, model: ChampionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(labelling, "WINDOW", 10)
        (tmp_path / "news.txt").write_text("".join(f"{TEXTS[place % 2]} {place}\n" for place in range(45)))
        label_file(model, tmp_path / "news.txt", tmp_path / "undisturbed.csv")
        asked: list[int] = []
        ask = model.ask

        def killed(texts: Any, **settings: Any) -> Any:
            if len(asked) == 2:
                raise KeyboardInterrupt
            asked.append(len(texts.values))
            return ask(texts, **settings)

        monkeypatch.setattr(model, "ask", killed)
        with pytest.raises(KeyboardInterrupt):
            label_file(model, tmp_path / "news.txt", tmp_path / "out.csv")
        assert not (tmp_path / "out.csv").exists()
        monkeypatch.setattr(model, "ask", ask)
        done = label_file(model, tmp_path / "news.txt", tmp_path / "out.csv")
        assert (done.rows, done.found) == (45, 20)
        assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "undisturbed.csv").read_bytes()
        assert len(list(tmp_path.iterdir())) == 3

    def test_batches_of_another_file_are_not_taken(
        self, folder: Path, model: ChampionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(labelling, "WINDOW", 2)
        file = write_csv(tmp_path / "news.csv")

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(labelling, "put_in_place", full)
            with pytest.raises(OSError, match="No space"):
                label_file(model, file, tmp_path / "out.csv")
        file.write_text("id,text\n1,Coda raises its dividend\n")
        done = label_file(model, file, tmp_path / "out.csv")
        assert (done.rows, done.found) == (1, 0)
        assert "Coda raises" in (tmp_path / "out.csv").read_text()

    def test_two_at_once_do_not_write_one_file(self, model: ChampionModel, tmp_path: Path) -> None:
        with (
            FileLock(tmp_path / ".out.csv.parts.lock"),
            pytest.raises(SourceError, match="another process is labelling into it"),
        ):
            label_file(model, write_csv(tmp_path / "news.csv"), tmp_path / "out.csv")

    def test_a_real_kill_leaves_the_old_file_and_the_next_work_ends_it(
        self, folder: Path, model: ChampionModel, tmp_path: Path
    ) -> None:
        (tmp_path / "news.txt").write_text(
            "".join(f"{TEXTS[place % 2]} {place}\n" for place in range(30_000))
        )
        out = tmp_path / "news.labels.csv"
        out.write_text("old\n")
        script = [sys.executable, "-m", "flywheel.cli.main", "label-texts", str(tmp_path / "news.txt")]
        script += ["--workload", WORKLOAD.id, "--client", "desk", "--artifacts", str(folder / "artifacts")]
        process = subprocess.Popen(script, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if "rows" in line:
                os.kill(process.pid, signal.SIGKILL)
                break
        process.communicate()
        assert out.read_text() == "old\n"
        done = subprocess.run(script, capture_output=True, text=True, check=True)
        assert "were labelled before" in done.stderr
        label_file(model, tmp_path / "news.txt", tmp_path / "undisturbed.csv")
        assert out.read_bytes() == (tmp_path / "undisturbed.csv").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "column", "said"),
    [
        ("none.csv", None, "", "no such file"),
        ("a.docx", b"x", "", "expected .csv"),
        ("a.csv", b"id,headline\n1,Acme\n", "headlin", r"did you mean 'headline'\?"),
        (
            "a.csv",
            b"id,headline\n1,Acme\n",
            "",
            "say --column; it has id, headline|which column holds the texts",
        ),
        ("a.csv", b"id,text\n1,Acme,more\n", "", "line 2: expected 2 fields, got 3"),
        ("a.csv", b'id,text\n1,"Acme\n', "", "line 2: "),
        ("a.csv", b"id,text\n1,\xff\n", "", "not UTF-8|utf-8"),
        ("a.csv", b"label,text\n1,Acme\n", "", "column 'label' already; say --prefix"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "", "line 2: not JSON"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "", "line 2: expected an object"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b", "label": 1}\n', "", "key 'label' already; say --prefix"),
        ("a.parquet", b"PAR1 or not", "", "no Parquet file"),
    ],
)
def test_a_file_that_cannot_be_labelled_is_told_with_file_line_or_column(
    model: ChampionModel, tmp_path: Path, name: str, content: bytes | None, column: str, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=said):
        label_file(model, tmp_path / name, tmp_path / "out", column=column)
    assert not (tmp_path / "out").exists()


def test_the_file_itself_and_another_format_are_refused_as_output(folder: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "news.csv")
    for output, said in ((file, "is FILE itself"), (tmp_path / "out.parquet", "written as .csv")):
        done = command(folder, file, "--output", str(output))
        assert isinstance(done.exception, SourceError)
        assert said in str(done.exception)


def test_a_prefix_lets_a_file_keep_its_own_label(folder: Path, model: ChampionModel, tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text("label,text\nmine,Acme raises its dividend\n")
    assert command(folder, tmp_path / "news.csv", "--prefix", "champion_").exit_code == 0
    rows = list(csv.DictReader((tmp_path / "news.labels.csv").read_text().splitlines()))
    assert rows[0]["label"] == "mine"
    assert rows[0]["champion_label"] == model.predict(["Acme raises its dividend"])[0]


def test_an_empty_file_gives_an_empty_one(model: ChampionModel, tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text("id,text\n")
    label_file(model, tmp_path / "news.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("id,text,label,probability")
    assert open_texts(tmp_path / "news.csv", "").names == ["id", "text"]
