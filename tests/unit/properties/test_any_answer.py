"""Whatever a student answers to whatever was asked, its evaluation says so, a line for each record."""

import tempfile
from typing import Any

import orjson
from hypothesis import event, given
from hypothesis import strategies as st

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common import exact_json
from flywheel.config.evaluation import EvaluationConfig
from flywheel.jobs.result import EvaluateResult
from flywheel.jobs.spec import RESULT, EvaluateSpec, Student
from flywheel.stages.curate import in_own_form, line_of
from flywheel.stages.examined import PREDICTIONS, Examined, Speed, keep_evaluation
from flywheel.students.comparing import Compared, compare, teacher_calls
from flywheel.workloads.labels import parse_label
from flywheel.workloads.tool_calls import calls_text, parse_calls
from tests.unit.news_records import WORKLOAD
from tests.unit.properties.conversations import CLASSIFIED, GOOD_RECORDS, TEXTS
from tests.unit.properties.inputs import JSON_TEXTS, bounded
from tests.unit.properties.test_any_example import validated

_CALLS = st.builds(
    lambda name, key, arguments: f'{{"name": {name}, "{key}": {arguments}}}',
    st.sampled_from(['"get_quote"', '"buy"', r'"\ud800"', "1"]),
    st.sampled_from(["arguments", "parameters"]),
    st.one_of(JSON_TEXTS, JSON_TEXTS.map(lambda text: f'{{"a": {text}}}')),
)
ANSWERS = st.one_of(
    TEXTS,
    JSON_TEXTS,
    _CALLS,
    st.lists(_CALLS, max_size=3).map("\n".join),
    st.sampled_from(["[[[earnings]]]", "{" * 3000]),
)


def lines_of(data: list[dict[str, Any]], *, classes: bool, parse: bool) -> list[dict[str, Any]]:
    records = [record for one in data if (record := validated(one, classes=classes, parse=parse))]
    if classes:
        # Beside tools a text is no class, but an answer without a call.
        records = [in_own_form(record, WORKLOAD) for record in records if record.label in WORKLOAD.classes]
    return [exact_json.loads(line_of(record, record.id, parse_arguments=parse)) for record in records]


def check(compared: Compared, lines: list[dict[str, Any]], texts: list[str]) -> None:
    """Check that there is a line for each record, and that all of it can be kept."""
    assert len(compared.teacher) == len(compared.student) == len(lines)
    assert compared.unparsable >= 0
    assert all(0 <= score <= 1 for score in compared.scores.values())
    assert all(len(values) == len(lines) for values in compared.each.values())
    orjson.dumps([compared.teacher, compared.student, compared.scores, compared.each])


@given(
    data=st.lists(GOOD_RECORDS, min_size=1, max_size=5),
    answers=st.lists(ANSWERS, min_size=5, max_size=5),
    kind=st.sampled_from(["tool_calling", "generic"]),
    parse=st.booleans(),
)
@bounded(80)
def test_any_answer_to_any_record_is_compared_and_kept(
    data: list[dict[str, Any]], answers: list[str], kind: Any, parse: bool
) -> None:
    lines = lines_of(data, classes=False, parse=parse)
    texts = [text.encode("utf-8", "replace").decode() for text in answers[: len(lines)]]
    event(f"{kind}: {len(lines) > 0}")
    if not lines:
        return
    evaluation = EvaluationConfig(workload_type=kind, bootstrap_samples=100)
    check(compare(lines, texts, evaluation, (), {}), lines, texts)
    with tempfile.TemporaryDirectory() as folder:
        root = ArtifactRoot(folder)
        spec = EvaluateSpec(
            artifact_root=folder, student=Student(model_name="test/s"), dataset="d", evaluation=evaluation
        )
        speed = Speed(1.0, len(lines), 1.0, [1.0] * len(lines), 1)
        result = keep_evaluation(root, "k", spec, Examined(lines, texts, speed, "cpu", 1))
        kept = root.fetch("evaluations", "k")
        said = [exact_json.loads(line) for line in (kept / PREDICTIONS).read_bytes().split(b"\n")[:-1]]
        assert EvaluateResult.model_validate_json((kept / RESULT).read_bytes()) == result
    assert [(line["id"], line["answer"]) for line in said] == list(
        zip([line["id"] for line in lines], texts, strict=True)
    )


@given(data=st.lists(GOOD_RECORDS, min_size=1, max_size=5), parse=st.booleans())
@bounded(60)
def test_a_student_that_answers_as_the_teacher_is_right_everywhere(
    data: list[dict[str, Any]], parse: bool
) -> None:
    lines = lines_of(data, classes=False, parse=parse)
    if not lines:
        return
    told = [calls_text(teacher_calls(line)) or line["messages"][-1]["content"] for line in lines]
    plain = [text for line, text in zip(lines, told, strict=True) if not teacher_calls(line)]
    calls = EvaluationConfig(workload_type="tool_calling", bootstrap_samples=100)
    # A text of the teacher's that reads as a call is one from the student.
    if not any(parse_calls(text) for text in plain):
        assert compare(lines, told, calls, (), {}).scores["function_name_and_args_accuracy"] == 1
    generic = EvaluationConfig(workload_type="generic", bootstrap_samples=100)
    texts = [line["messages"][-1]["content"] for line in lines]
    scores = compare(lines, texts, generic, (), {}).scores
    assert scores["exact_match"] == scores["similarity"] == 1


@given(data=st.lists(CLASSIFIED, min_size=1, max_size=5), answers=st.lists(ANSWERS, min_size=5, max_size=5))
@bounded(60)
def test_a_class_is_read_from_the_own_form_and_nothing_else_is_taken_for_one(
    data: list[dict[str, Any]], answers: list[str]
) -> None:
    lines = lines_of(data, classes=True, parse=True)
    if not lines:
        return
    evaluation = EvaluationConfig(workload_type="classification", bootstrap_samples=100)
    right = [line["messages"][-1]["content"] for line in lines]
    assert compare(lines, right, evaluation, WORKLOAD.classes, {}).scores["accuracy"] == 1
    texts = answers[: len(lines)]
    compared = compare(lines, texts, evaluation, WORKLOAD.classes, {})
    check(compared, lines, texts)
    none = sum(parse_label(text, WORKLOAD.classes, {}) is None for text in texts)
    assert compared.unparsable == none
