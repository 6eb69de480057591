"""Answers and errors that come compressed although nobody asked for it, and those that cannot be unfolded."""

import gzip
import json
import os
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from flywheel.common.errors import TeacherError
from flywheel.teacher import decoding
from flywheel.teacher.decoding import EncodingError, decoded
from tests.unit.teacher_servers import Script, completion, served
from tests.unit.test_stages_label import figures, label, make, write_headlines

MIB = 1024 * 1024
ANSWER = completion("[[[earnings]]]")


def brotli() -> Any:
    if os.environ.get("CI") == "true":
        import brotli as found

        return found
    return pytest.importorskip("brotli", reason="an environment from before brotli was required")


def raw_deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return engine.compress(data) + engine.flush()


ENCODED = [
    ("gzip", gzip.compress),
    ("GZIP", gzip.compress),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("br", lambda data: brotli().compress(data)),
    ("identity", bytes),
    ("", gzip.compress),
    ("gzip, identity", gzip.compress),
    ("gzip, deflate", lambda data: zlib.compress(gzip.compress(data))),
    ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    ("gzip", bytes),  # the header is left from another hop
    ("utf-8", bytes),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FLYWHEEL_TEACHER_BASE_URL", "FLYWHEEL_TEACHER_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    write_headlines(
        tmp_path, [(f"Acme unit {number} posts results", "2024-03-01", "") for number in range(12)]
    )
    return tmp_path


@pytest.mark.parametrize(("encoding", "encode"), ENCODED)
def test_a_body_is_decoded_by_its_content_encoding(encoding: str, encode: Any) -> None:
    assert decoded(encode(ANSWER), encoding) == ANSWER


def test_a_gateway_that_compresses_answers_and_errors_labels_and_is_understood(folder: Path) -> None:
    refusal = gzip.compress(json.dumps({"error": {"message": "input was flagged"}}).encode())
    good = [
        (200, {"Content-Encoding": name}, encode(ANSWER))
        for name, encode in ENCODED
        if name not in ("br", "")
    ]
    script = Script([*good[:4], (403, {"content-encoding": "gzip"}, refusal), *good[4:]])
    with served(script) as url:
        assert figures(label(make(folder, url), folder)) == (12, 11, 11, 0, 1)
    assert "403: input was flagged" in (folder / "label.quarantine.jsonl").read_text()


def test_an_encoding_that_is_not_known_is_told_by_its_name_at_once(folder: Path) -> None:
    script = Script([(200, {"content-encoding": "compress"}, b"\x1f\x9d\x90")])
    with served(script) as url, pytest.raises(TeacherError, match=r"'compress', which is not read.*identity"):
        label(make(folder, url), folder)
    assert len(script.calls) == 1
    script = Script([(401, {"content-encoding": "compress"}, b"\x1f\x9d\x90")])
    with served(script) as url, pytest.raises(TeacherError, match=r"said 401: \(what it says.*'compress'"):
        label(make(folder, url), folder)


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("gzip", gzip.compress(ANSWER)[:-9], "its end is missing"),
        ("gzip", b"\x1f\x8b\x08" + bytes(20), "damaged"),
        ("deflate", b"\xff" * 20, "damaged"),
        ("gzip, " * 9 + "gzip", gzip.compress(ANSWER), "10 layers"),
    ],
    ids=["cut off", "no gzip", "no deflate", "many layers"],  # a gzip file tells when it was made
)
def test_a_damaged_body_is_an_error_and_no_crash(encoding: str, body: bytes, message: str) -> None:
    with pytest.raises(EncodingError, match=message):
        decoded(body, encoding)


def test_damaged_brotli_is_an_error_and_no_crash() -> None:
    compressed = brotli().compress(ANSWER)
    for body in (compressed[:-4], b"\xff" * 20):
        with pytest.raises(EncodingError, match="damaged"):
            decoded(body, "br")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_a_bomb_is_an_error_and_takes_no_memory(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_BYTES", MIB)
    zeros = bytes(16 * MIB)
    if encoding == "br":
        bomb = brotli().compress(zeros, quality=1)
    elif encoding == "deflate":
        bomb = zlib.compress(zeros, 1)
    else:
        bomb = gzip.compress(zeros, 1)
        if encoding != "gzip":
            bomb = gzip.compress(bomb, 1)
    tracemalloc.start()
    with pytest.raises(EncodingError, match="longer than 1 MiB"):
        decoded(bomb, encoding)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * MIB


def test_what_does_not_end_is_read_only_so_far(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flywheel.teacher.connections.MAX_BYTES", MIB)
    script = Script([(200, {}, ANSWER), (200, {}, b" " * (MIB + 1)), (200, {}, ANSWER)])
    with served(script) as url:
        assert label(make(folder, url), folder).labelled == 12
    assert len(script.calls) == 13
