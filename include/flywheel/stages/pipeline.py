"""The seven stages joined together: each takes its inputs from the run's folder and leaves its result there.

The DAG's tasks and the command line both call these functions; neither adds logic of its own. Heavy
libraries are imported inside, so that a DAG file that imports this module is parsed quickly.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.collecting import rare_collections
from flywheel.common.errors import ArtifactError, ConfigError, FlywheelError
from flywheel.runs.plan import Candidate, Plan
from flywheel.runs.run import Run

if TYPE_CHECKING:
    from flywheel.curation.result import CurateResult
    from flywheel.jobs.spec import CustomizeSpec, EvaluateSpec
    from flywheel.stages.forecast import Forecast
    from flywheel.stages.ingest import IngestResult
    from flywheel.stages.label import LabelResult
    from flywheel.stages.promote import PromoteResult
    from flywheel.stages.score import ScoreResult

log = logging.getLogger(__name__)


def begin(plan: Plan, *, is_first: bool = False) -> Run:
    """Freeze a plan into its run's folder, in a root that is brought up to this version first.

    Args:
        is_first: nobody can have planned this run before; see `Run.create`.

    Raises:
        OtherPlanError: the plan that is there is another run's, or was there before the run was.
        ArtifactError: a newer flywheel has written the artifact root.
    """
    from flywheel.stages.upgrade import bring_up

    bring_up(ArtifactRoot(plan.config.artifacts.root))
    return Run.create(plan, is_first=is_first)


def forecast(run: Run) -> Forecast | None:
    """Tell how many answers will be asked and what they cost; also in the run's forecast.json.

    None where the run has no headlines, or where they cannot be counted; then `label` says why.
    """
    from flywheel.stages.forecast import forecast

    try:
        found = forecast(run.plan)
    except FlywheelError as error:
        log.warning("what will be asked of the teacher cannot be told: %s", error)
        return None
    if found is not None:
        run.root.write_json(f"{run.path}/forecast.json", found.model_dump(mode="json"))
        log.info("%s", found.line())
    return found


@rare_collections()
def label(run: Run) -> LabelResult:
    """Have the teacher label the headlines before the cutoff that it has not labelled yet."""
    from flywheel.promotion.costs import record_cost
    from flywheel.report.outcomes import gather
    from flywheel.stages.label import LabelResult, label

    plan = run.plan
    result = run.perform("label", LabelResult, lambda folder: label(plan, folder))
    record_cost(run, gather(run))
    return result


def ingest(run: Run) -> IngestResult:
    """Write the labelled headlines, and log records of applications, into the store."""
    from flywheel.stages.ingest import IngestResult, ingest
    from flywheel.stages.label import LabelResult

    plan, labelled = run.plan, run.load("stages/label", LabelResult)
    return run.perform("ingest", IngestResult, lambda folder: ingest(plan, folder, labelled))


def curate(run: Run) -> CurateResult:
    """Split the store's records before the cutoff into nested training sets, validation and eval."""
    from flywheel.curation.result import CurateResult
    from flywheel.stages.curate import curate

    plan = run.plan
    return run.perform("curate", CurateResult, lambda folder: curate(plan, folder))


def customize_spec(run: Run, candidate: Candidate) -> CustomizeSpec:
    """Return what the customization job of a candidate is asked to do."""
    from flywheel.curation.result import CurateResult
    from flywheel.jobs.spec import MOST_CHOSEN_WITH, CustomizeSpec

    plan, curated = run.plan, run.load("stages/curate", CurateResult)
    student = plan.config.student(candidate.student)
    if student.family != "causal_lm" and curated.workload_type != "classification":
        raise ConfigError(
            f"nims: {student.name} is of family {student.family}, which classifies, but the records are of "
            f"type {curated.workload_type}; expected family causal_lm"
        )
    there = curated.candidates or plan.candidates
    return CustomizeSpec(
        artifact_root=plan.config.artifacts.root,
        log_level=plan.config.logging_config.level,
        student=student,
        dataset=curated.dataset,
        size=candidate.size,
        training=plan.config.training_of(student),
        lora=plan.config.lora_config,
        tuning=plan.config.tuning,
        student_prompt=plan.config.student_prompt,
        chosen_with=min([MOST_CHOSEN_WITH, *(one.size for one in there if one.student == candidate.student)]),
        answers=_answers(plan, curated),
        seed=plan.config.data_split_config.random_seed,
    )


def evaluate_spec(
    run: Run, student: str, size: int | None = None, *, with_examples: bool = False
) -> EvaluateSpec:
    """Return what an evaluation job is asked to do: of a candidate, or of the base student (no size).

    Args:
        with_examples: put examples into the prompts, as `icl_config` says.
    """
    from flywheel.curation.result import CurateResult
    from flywheel.jobs.result import CustomizeResult
    from flywheel.jobs.spec import EvaluateSpec

    plan, curated = run.plan, run.load("stages/curate", CurateResult)
    adapter = None
    if size is not None:
        folder = Candidate(student=student, size=size).folder
        adapter = run.load(f"jobs/{folder}/customize", CustomizeResult).adapter
    return EvaluateSpec(
        artifact_root=plan.config.artifacts.root,
        log_level=plan.config.logging_config.level,
        student=plan.config.student(student),
        dataset=curated.dataset,
        adapter=adapter,
        size=size,
        classes=plan.workload.classes,
        aliases=plan.workload.aliases,
        answers=_closed_answers(plan, curated) if adapter is not None else None,
        icl=plan.config.icl_config if with_examples else None,
        evaluation=plan.config.evaluation_config.of_type(curated.workload_type),
    )


def champion_spec(run: Run) -> EvaluateSpec:
    """Return what the evaluation job of the champion is asked to do: tonight's eval set.

    That is the champion in force; of a night in the past, the timeline's at its cutoff.

    Raises:
        ArtifactError: there is no champion yet.
    """
    from flywheel.curation.result import CurateResult
    from flywheel.jobs.spec import EvaluateSpec
    from flywheel.jobs.weights import hub_name
    from flywheel.promotion.timeline import compared_champion
    from flywheel.promotion.whole import bring_adapter_back

    plan, curated = run.plan, run.load("stages/curate", CurateResult)
    champion = compared_champion(run.root, plan)
    if champion is None:
        raise ArtifactError("no champion yet: nothing to measure anew")
    bring_adapter_back(run.root, champion)
    # A champion stays one when its student is no longer in the config.
    known = {student.name: student for student in plan.config.students}
    student = known.get(champion.student)
    same = student is not None and (student.family, hub_name(student.weights)) == (
        champion.family,
        hub_name(champion.weights),
    )
    if student is not None and same:
        student = student.model_copy(update={"weights": champion.weights})  # at the commit it was trained on
    else:
        student = champion.as_student
    return EvaluateSpec(
        artifact_root=plan.config.artifacts.root,
        log_level=plan.config.logging_config.level,
        student=student,
        dataset=curated.dataset,
        adapter=champion.adapter,
        size=champion.size,
        classes=plan.workload.classes,
        aliases=plan.workload.aliases,
        answers=_closed_answers(plan, curated),
        evaluation=plan.config.evaluation_config.of_type(curated.workload_type),
    )


def _closed_answers(plan: Plan, curated: CurateResult) -> tuple[str, ...] | None:
    """Return the answers that a candidate chooses among; None where it answers freely."""
    return None if plan.config.evaluation_config.decoding == "free" else _answers(plan, curated)


def _answers(plan: Plan, curated: CurateResult) -> tuple[str, ...] | None:
    """Return the classes' answers as the teacher writes them; None where there are no classes."""
    if curated.workload_type != "classification":
        return None
    return tuple(plan.workload.answer_for(label) for label in plan.workload.classes)


def write_spec(run: Run, kind: str, student: str, size: int | None = None) -> str:
    """Write the spec of a job and return its URL, which `flywheel customize` and `flywheel evaluate` take.

    Args:
        kind: customize, evaluate, base_eval, icl_eval or champion_eval.
        student: short name; CHAMPION for champion_eval.
    """
    if kind == "customize":
        assert size is not None
        spec: CustomizeSpec | EvaluateSpec = customize_spec(run, Candidate(student=student, size=size))
    elif kind == "champion_eval":
        spec = champion_spec(run)
    else:
        spec = evaluate_spec(run, student, size, with_examples=kind == "icl_eval")
    folder = Candidate(student=student, size=size).folder if size is not None else student
    path = f"{run.path}/jobs/{folder}/{kind}.spec.json"
    run.root.write_json(path, spec.model_dump(mode="json"))
    return f"{run.root.url}/{path}"


@rare_collections()
def score(run: Run) -> ScoreResult:
    """Put all candidates into the table, the learning curve, the report and MLflow."""
    from flywheel.promotion.costs import record_cost
    from flywheel.stages.score import ScoreResult, gather, score

    plan, outcomes = run.plan, gather(run)
    result = run.perform("score", ScoreResult, lambda folder: score(plan, folder, outcomes))
    record_cost(run, outcomes)
    return result


@rare_collections()
def promote(run: Run, *, approved: bool = True, comment: str = "", by: str = "") -> PromoteResult:
    """Put the chosen candidate into production, or keep the champion that is there."""
    from flywheel.stages.promote import PromoteResult, promote
    from flywheel.stages.score import ScoreResult

    plan, scored = run.plan, run.load("stages/score", ScoreResult)
    return run.perform(
        "promote",
        PromoteResult,
        lambda folder: promote(plan, folder, scored, approved=approved, comment=comment, by=by),
    )
