"""One prompt, one data set: what an edit of the workload's prompt, or of its classes, leaves of old labels."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import NotEnoughRecordsError, WorkloadError
from flywheel.curation import reading
from flywheel.curation.result import CurateResult
from flywheel.runs.plan import Plan
from flywheel.runs.run import Run
from flywheel.stages.curate import curate
from flywheel.stores.sqlite import SqliteStore
from flywheel.workloads.lines import read_lines
from flywheel.workloads.records import Record
from flywheel.workloads.versions import Recognizer, remember_version, versions_of
from flywheel.workloads.workload import Workload
from tests.unit.news_records import WORKLOAD, news_plan, news_record

# Words that no two of the texts share: none is a near-duplicate.
TEXTS = [f"alpha{n} beta{n} gamma{n} delta{n} epsilon{n}" for n in range(60)]
EDITED = replace(WORKLOAD, before=WORKLOAD.before.replace("Classes:", "The classes:"))
LONGER = replace(WORKLOAD, before=WORKLOAD.before + "\nIn other words: ")


def records_of(
    workload: Workload, texts: Iterable[str], label: str | None = None, **given: Any
) -> list[Record]:
    return [news_record(text, label, messages=workload.messages(text), **given) for text in texts]


def night(
    folder: Path, workload: Workload, records: Iterable[Record] = (), *, known: Any = (), **split: Any
) -> CurateResult:
    """Curate with this workload in force, after runs with the known ones."""
    with SqliteStore(folder / "records.sqlite") as store:
        store.write(records)
    plan = planned(folder, workload, **split)
    root = ArtifactRoot(plan.config.artifacts.root)
    for version in (*known, workload):
        remember_version(root, version)
    return curate(plan, folder)


def planned(folder: Path, workload: Workload, **split: Any) -> Plan:
    return news_plan(folder, **split).model_copy(update={"workload": workload})


def prompts_of(folder: Path, result: CurateResult) -> list[str]:
    return [line["messages"][-2]["content"] for line in lines_of(folder, result)]


def lines_of(folder: Path, result: CurateResult) -> list[dict[str, Any]]:
    at = folder / "artifacts/datasets" / result.dataset
    return [line for part in ("train", "val", "eval") for line in read_lines(at / f"{part}.jsonl")]


def test_after_an_edit_of_the_prompt_no_data_set_mixes_both(tmp_path: Path) -> None:
    old, new = records_of(WORKLOAD, TEXTS), records_of(EDITED, TEXTS[:30])
    result = night(tmp_path, EDITED, [*old, *new], known=[WORKLOAD])
    assert all(prompt.startswith(EDITED.before) for prompt in prompts_of(tmp_path, result))
    assert (result.total, result.used, result.prompts.left_out) == (90, 30, 60)
    assert result.prompts.other_version == {WORKLOAD.version: 60}
    assert (
        f"60 records stay out, as they were labelled under other versions of the prompt ({WORKLOAD.version}"
        in (" ".join(result.notes))
    )


def test_a_restored_prompt_has_its_records_back_at_once(tmp_path: Path) -> None:
    before = night(tmp_path, WORKLOAD, records_of(WORKLOAD, TEXTS))
    night(tmp_path, EDITED, records_of(EDITED, TEXTS[:30]), known=[WORKLOAD])
    after = night(tmp_path, WORKLOAD)
    assert after.used == before.used == 60
    assert after.prompts.other_version == {EDITED.version: 30}
    assert sorted(prompts_of(tmp_path, after)) == sorted(prompts_of(tmp_path, before))


def test_labels_that_are_declared_to_hold_are_put_into_todays_prompt(tmp_path: Path) -> None:
    records = [*records_of(WORKLOAD, TEXTS[:40]), *records_of(EDITED, TEXTS[40:])]
    without = night(tmp_path, EDITED, records, known=[WORKLOAD])
    declared = replace(EDITED, labels_hold_from=(WORKLOAD.sha256,))
    result = night(tmp_path, declared, known=[WORKLOAD])
    assert result.dataset != without.dataset  # the declaration is part of the key
    assert (without.used, result.used) == (20, 60)
    assert sorted(prompts_of(tmp_path, result)) == sorted(EDITED.messages(t)[-1]["content"] for t in TEXTS)
    assert result.prompts.taken_over == {WORKLOAD.version: 40}
    assert not result.prompts.other_version
    assert {line["id"] for line in lines_of(tmp_path, result)} == {record.id for record in records}


def test_a_prompt_that_goes_on_where_todays_ends_is_another_version(tmp_path: Path) -> None:
    assert Recognizer(WORKLOAD, [LONGER]).find(LONGER.messages("a text")) == (LONGER, "a text")
    result = night(
        tmp_path,
        WORKLOAD,
        [*records_of(WORKLOAD, TEXTS[:30]), *records_of(LONGER, TEXTS[30:])],
        known=[LONGER],
    )
    assert result.prompts.other_version == {LONGER.version: 30}


def test_labels_of_a_class_that_no_longer_exists_stay_out(tmp_path: Path) -> None:
    without = replace(WORKLOAD, classes=tuple(name for name in WORKLOAD.classes if name != "Dividends"))
    records = [*records_of(WORKLOAD, TEXTS[:40]), *records_of(WORKLOAD, TEXTS[40:], "Dividends")]
    result = night(tmp_path, without, records, known=[WORKLOAD])
    assert (result.used, result.prompts.removed_class) == (40, {"Dividends": 20})
    assert "Dividends" not in result.per_class
    assert "20 records stay out, as their class no longer exists (Dividends: 20)" in " ".join(result.notes)


def test_an_alias_says_which_class_an_old_one_is_now(tmp_path: Path) -> None:
    renamed = replace(
        WORKLOAD,
        classes=tuple("Payouts" if name == "Dividends" else name for name in WORKLOAD.classes),
        aliases={"Dividends": "Payouts"},
    )
    records = [*records_of(WORKLOAD, TEXTS[:40], "OTHER"), *records_of(WORKLOAD, TEXTS[40:], "Dividends")]
    result = night(tmp_path, renamed, records, known=[WORKLOAD])
    assert result.per_class["Payouts"].total == 20
    assert {line["messages"][-1]["content"] for line in lines_of(tmp_path, result)} == {
        "[[[payouts]]]",
        "[[[other]]]",
    }


def test_prompts_of_an_application_stay_as_they_are(tmp_path: Path) -> None:
    own = [news_record(text, messages=[{"role": "user", "content": text}]) for text in TEXTS]
    result = night(tmp_path, EDITED, own, known=[WORKLOAD])
    assert result.used == 60
    assert sorted(prompts_of(tmp_path, result)) == sorted(TEXTS)


def test_the_limit_counts_records_that_go_in(tmp_path: Path) -> None:
    new = records_of(EDITED, TEXTS[:30], timestamp=1000)
    old = records_of(WORKLOAD, TEXTS[30:], timestamp=2000)
    result = night(tmp_path, EDITED, [*old, *new], known=[WORKLOAD], limit=25)
    assert result.used == 25


def test_too_few_records_of_todays_prompt_says_where_the_others_are(tmp_path: Path) -> None:
    with pytest.raises(NotEnoughRecordsError, match=r"60 records stay out, .* labels_hold_from"):
        night(tmp_path, EDITED, records_of(WORKLOAD, TEXTS), known=[WORKLOAD])


def test_the_process_that_reads_apart_sifts_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [*records_of(WORKLOAD, TEXTS[:30]), *records_of(EDITED, TEXTS[30:])]
    here = night(tmp_path, EDITED, records, known=[WORKLOAD])
    monkeypatch.setattr(reading, "APART_FROM", 1)
    apart = night(tmp_path, EDITED, known=[WORKLOAD], random_seed=5)
    assert (apart.prompts, apart.used) == (here.prompts, here.used)


# -- versions ------------------------------------------------------------------------------------------


def workload_file(folder: Path, *held: str, text: str = "Classes:") -> Path:
    source = Path("include/workloads/news_classifier.yaml").read_text().replace("Classes:", text)
    path = folder / "workload.yaml"
    path.write_text(
        source + "".join(["\nlabels_hold_from:\n", *(f'  - "{v}"\n' for v in held)] if held else "")
    )
    return path


def plan_with(folder: Path, path: Path, run_id: str) -> Plan:
    from datetime import UTC, datetime

    from flywheel.config.loading import validate_config
    from flywheel.runs.plan import make_plan

    data = {
        "nims": [{"model_name": "test/1b"}],
        "workload": str(path),
        "artifacts": {"root": str(folder / "artifacts")},
    }
    return make_plan(validate_config(data, "test"), run_id=run_id, cutoff=datetime.now(UTC))


def test_every_plan_keeps_its_version(tmp_path: Path) -> None:
    first = Run.create(plan_with(tmp_path, workload_file(tmp_path), "one")).plan.workload
    Run.create(plan_with(tmp_path, workload_file(tmp_path), "two"))
    second = Run.create(plan_with(tmp_path, workload_file(tmp_path, text="Sorts:"), "three")).plan.workload
    known = versions_of(ArtifactRoot(str(tmp_path / "artifacts")), "news_classifier")
    assert {version.workload.sha256 for version in known} == {first.sha256, second.sha256}


def test_versions_from_before_they_were_kept_come_from_the_plans(tmp_path: Path) -> None:
    run = Run.create(plan_with(tmp_path, workload_file(tmp_path), "one"))
    for name in run.root.list("workloads/news_classifier"):
        run.root.discard(f"workloads/news_classifier/{name}")
    Run.create(plan_with(tmp_path, workload_file(tmp_path, text="Sorts:"), "two"))
    assert len(versions_of(run.root, "news_classifier")) == 2


def test_a_version_that_holds_is_named_by_its_beginning(tmp_path: Path) -> None:
    first = Run.create(plan_with(tmp_path, workload_file(tmp_path), "one")).plan.workload
    plan = plan_with(tmp_path, workload_file(tmp_path, first.version, text="Sorts:"), "two")
    assert plan.workload.labels_hold_from == (first.sha256,)


def test_an_unknown_version_is_an_error_with_file_line_and_key(tmp_path: Path) -> None:
    first = Run.create(plan_with(tmp_path, workload_file(tmp_path), "one")).plan.workload
    path = workload_file(tmp_path, "0123456789ab", text="Sorts:")
    line = path.read_text().splitlines().index('  - "0123456789ab"') + 1
    with pytest.raises(WorkloadError) as error:
        plan_with(tmp_path, path, "two")
    assert f"{path}, line {line}: labels_hold_from.0: '0123456789ab'" in str(error.value)
    assert first.version in str(error.value)


@pytest.mark.parametrize("held", ["xyz", "1234567"])
def test_a_version_is_hex_digits(tmp_path: Path, held: str) -> None:
    with pytest.raises(WorkloadError, match=r"labels_hold_from\.0: expected a version"):
        Workload.load(workload_file(tmp_path, held))


def test_a_declaration_does_not_change_the_version(tmp_path: Path) -> None:
    plain = Workload.load(workload_file(tmp_path))
    declared = Workload.load(workload_file(tmp_path, "0123456789ab"))
    assert declared.sha256 == plain.sha256
    assert declared.messages("a") == plain.messages("a")
