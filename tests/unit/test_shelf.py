"""The shelf of documents that were read: what it gives back, what it leaves to the server."""

from pathlib import Path

import pytest

from flywheel.stores.elasticsearch.shelf import Shelf


def document(number: int) -> dict[str, object]:
    return {"id": f"{number * 7919 % 10_007:032x}"[::-1], "text": f"headline {number} é"}


def test_documents_come_back_by_their_ids_in_the_order_asked_for() -> None:
    shelf, documents = Shelf(1 << 20), [document(number) for number in range(1000)]
    shelf.put(documents[:600])
    assert shelf.get([str(documents[3]["id"])]) == [documents[3]]
    shelf.put(documents[600:])
    wanted = documents[::-7]
    assert shelf.get([str(one["id"]) for one in wanted]) == wanted
    assert len(shelf) == 1000


def test_what_was_not_put_is_not_there_even_if_its_id_begins_alike() -> None:
    shelf = Shelf(1 << 20)
    assert shelf.get(["ab"]) == [None]
    shelf.put([{"id": "0" * 16 + "a"}])
    assert shelf.get(["0" * 16 + "b", "0" * 16 + "a", "f" * 32, "no hex"]) == [
        None,
        {"id": "0" * 16 + "a"},
        None,
        None,
    ]


def test_a_full_shelf_keeps_what_it_has() -> None:
    shelf = Shelf(500)
    for number in range(100):
        shelf.put([document(number)])
    assert 5 < len(shelf) < 15
    assert shelf.get([str(document(2)["id"]), str(document(99)["id"])]) == [document(2), None]


def test_a_disk_that_cannot_be_written_to_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    shelf = Shelf(1 << 20)
    shelf.put([document(1)])
    assert shelf.get([str(document(1)["id"])]) == [None]


def test_a_closed_shelf_is_empty() -> None:
    shelf = Shelf(1 << 20)
    shelf.put([document(1)])
    shelf.close()
    shelf.close()
    assert shelf.get([str(document(1)["id"])]) == [None]
