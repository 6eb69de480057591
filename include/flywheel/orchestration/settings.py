"""What a DAG takes from its experiment's file when it is parsed: schedule, names, defaults of its params."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, Param, get_parsing_context

from flywheel.common.errors import ConfigError, FlywheelError
from flywheel.config import Config, load_config
from flywheel.config.clock import ClockSection
from flywheel.config.experiments import dag_id_of
from flywheel.config.overrides import overrides_schema
from flywheel.config.schema import ScheduleConfig
from flywheel.config.sides import MOST, MOST_SIZES, WORDS
from flywheel.orchestration.nights import NightOrAssetTimetable, NightTimetable, nightly
from flywheel.orchestration.notifications import check_notifiers
from flywheel.runtimes import Runtime, open_runtime
from flywheel.workloads.experiments import check_owner, experiments, file_of

if TYPE_CHECKING:
    from flywheel.runtimes.planned import PlannedRuntime

_APPROVALS = WORDS["promotion.approval"]
# Whenever a param is looked at, by every task and dozens of times when the DAG is written to the database,
# Airflow checks its schema against that of its draft: this one takes a sixth of the time of the newest.
_DRAFT = "http://json-schema.org/draft-07/schema#"


def read_config(experiment: str = "") -> Config | None:
    """Return the configuration of an experiment; None where it is wrong but nothing depends on it.

    The scheduler sees a wrong file as an import error that names file, line and key, and so a notifier that
    is none. A task of a run that has begun goes on: it has the run's frozen plan, and the file may be in the
    middle of an edit.

    Raises:
        ConfigError: the file is wrong.
        WorkloadError: its workload's is.
    """
    is_plans = get_parsing_context().task_id in (None, "plan")
    try:
        return config_of(experiment) if is_plans else load_config(experiment=experiment)
    except FlywheelError:
        if is_plans:
            raise
        return None


def config_of(experiment: str) -> Config:
    """Return the configuration of a run that is about to begin.

    Raises:
        ConfigError: a file is wrong, there is no such experiment, or another is of its workload and client.
        WorkloadError: its workload's file is wrong.
    """
    config = load_config(experiment=experiment)
    try:
        check_notifiers(config)
    except ConfigError as error:
        raise ConfigError(f"{file_of(experiment)}: {error}") from None
    check_owner(experiment, config)
    return config


def unchanged_as_none(params: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return a run's params with None for those that are as the form gives them: the config says these."""
    form = dag_params(config)
    return {
        name: None if value == form[name].value else value for name, value in params.items() if name in form
    }


def shown(experiment: str, config: Config | None) -> dict[str, Any]:
    """Return what a DAG is called and found by, as arguments of `@dag`."""
    return {
        "dag_id": dag_id_of(experiment),
        "dag_display_name": f"flywheel {experiment}".strip(),
        "tags": sorted({"distillation", "flywheel", *(config.dag.tags if config else ())}),
    }


def read_runtime(config: Config | None) -> Runtime | PlannedRuntime:
    """Return the runtime whose tasks the DAG has: the config's; where that cannot be read, each plan's own.

    Raises:
        ConfigError: it cannot be used here.
    """
    if config is None:
        from flywheel.runtimes.planned import PlannedRuntime

        return PlannedRuntime()
    return open_runtime(config)


def serving_runtime() -> Runtime | PlannedRuntime | None:
    """Return the runtime of the first experiment whose champions it has served by a task of its own.

    Raises:
        ConfigError: config.yaml is wrong. An experiment that is wrong is its own DAG's matter.
    """
    others = (read_runtime(one.config) for one in experiments() if one.name and one.config)
    runtimes = chain([read_runtime(read_config())], others)
    return next((runtime for runtime in runtimes if runtime.serve()), None)


def pool_of_label(config: Config | None) -> dict[str, str]:
    """Return the pool in which one run at a time labels, as an argument of its task, where one is named."""
    return {"pool": config.dag.label_pool} if config and config.dag.label_pool else {}


def confirms_cost(config: Config | None) -> bool:
    """Return whether a person is asked before much is asked of the teacher."""
    return bool(config and config.teacher.confirm_above.is_set)


def dag_schedule(config: Config | None) -> Any:
    """Return when the DAG runs, as Airflow takes it: by clock, by asset, by either, or by hand only.

    With a clock, a run's interval ends at the moment it was due; a backfill gives each night its own.
    """
    schedule = config.schedule if config else ScheduleConfig()
    assets: list[Any] = [Asset(schedule.asset)] if schedule.asset else []
    clock = clock_schedule(schedule)
    if clock is None:
        return assets or None
    return NightOrAssetTimetable(timetable=clock, assets=assets) if assets else clock


def clock_schedule(section: ClockSection | None) -> NightTimetable | None:
    """Return when a section of the config has its DAG run; None where it leaves that to a person."""
    if section is None or not section.cron:
        return None
    return nightly(section)


_CHANGES = (
    "Sections of the config with the keys to change, such as "
    '{"training_config": {"epochs": 2}}. A run may change sizes, student_prompt, '
    "training_config, lora_config, evaluation_config and icl_config; what decides the "
    "examination (data_split_config, for one) too, but then it never promotes by itself; the "
    "gates of promotion it may make stricter. All else is the operator's."
)
_SHOWN = {
    "automatic": "Automatic: the cheapest good candidate is promoted",
    "human": "Human: the run waits for an answer under Required Actions",
}


def dag_params(config: Config | None) -> dict[str, Param]:
    """Return the fields of the trigger form, with the config's values as defaults."""
    students = [student.name for student in config.students] if config else []
    sizes = list(config.sizes) if config else []
    approval = config.promotion.approval if config else "automatic"
    return {
        "workload_id": _param(
            None,
            type=["null", "string"],
            title="Workload",
            pattern=r"^[\w.-]{1,128}$",
            description="Whose prompts: the workload_id of the records. Empty: that of the workload file.",
        ),
        "client_id": _param(
            config.client_id if config else None,
            type=["null", "string"],
            title="Client",
            maxLength=128,
            description="Whose data: the client_id of the records.",
        ),
        "students": _param(
            students,
            type="array",
            title="Students",
            items={"type": "string", **({"enum": students} if students else {})},
            examples=students,
            description="Which of the config's students. None chosen: all.",
        ),
        "sizes": _param(
            sizes,
            type="array",
            title="Training records",
            items={"type": "integer", "minimum": 1, "maximum": max([int(MOST["sizes"]), *sizes])},
            maxItems=max(MOST_SIZES, len(sizes)),
            description="Each student is trained on each of these numbers of records.",
        ),
        "approval": _param(
            approval,
            type="string",
            title="Approval",
            enum=list(_APPROVALS[_APPROVALS.index(approval) :]),  # stricter is what a run may be
            values_display=_SHOWN,
            description="Who decides about the promotion.",
        ),
        "overrides": _param(
            {},
            title="Changes to the config, for this run alone",
            description=_CHANGES,
            **overrides_schema(config),
        ),
    }


def _param(default: Any, **schema: Any) -> Param:
    """Return a field of the trigger form."""
    schema["$schema"] = _DRAFT
    return Param(default, **schema)
