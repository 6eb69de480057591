"""# The data flywheel

Distils the answers of a teacher LLM into small fine-tuned students, measures each against the teacher, and
puts the cheapest good one into production. Each experiment is such a DAG: config.yaml is `flywheel`, and
experiments/NAME.yaml is `flywheel_NAME`, by a link to this file that is called `experiment_NAME.py`.

    plan -> label -> ingest -> curate -+-> base_eval    [one for each student] ----------------+-> score -> review -> promote
                                       +-> champion_eval, on this run's eval set --------------+
                                       +-> candidate    [student @ size]: customize -> evaluate-+

* A run sees records before its **cutoff**: the end of its data interval, else its logical date, else the
  moment it was asked for. So a backfill gives what that night's run would have given.
* `plan` freezes the config and the params of the run; later edits of the file do not reach it.
* `confirm`, where the config has `teacher.confirm_above`, stands before `label`: a run that would ask more of
  the teacher waits for a person.
* `icl_eval`, where the config has `icl_config`: each untrained student with examples in its prompts.
* `serve`, where the config has `serving.url`, ends when the endpoint answers with the champion.
* A candidate that fails is a line of the table, with the reason. The run fails when nothing could be scored.
* Where jobs run is `runtime.type` of its file: on kubernetes their tasks are KubernetesPodOperators.
* All work is found again by what it was made from: a cleared or repeated task does only what is missing.
"""  # noqa: E501

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import chain, dag, task_group

from flywheel.orchestration import (
    CHAMPION,
    KEEPS_FAILURES,
    ConfirmOperator,
    ReviewOperator,
    await_endpoint,
    confirms_cost,
    curate,
    dag_params,
    dag_schedule,
    experiment_in,
    has_endpoint,
    ingest,
    label,
    notify_failure,
    plan,
    pool_of_label,
    promote,
    read_config,
    read_runtime,
    score,
    shown,
)

experiment = experiment_in(__file__)
config = read_config(experiment)
runtime = read_runtime(config)


@task_group
def candidate(student: str, size: int) -> None:
    """A student fine-tuned on a number of training records, and measured."""
    customize = runtime.task("customize", student=student, size=size)
    customize >> runtime.task("evaluate", student=student, size=size)


@dag(
    **shown(experiment, config),
    schedule=dag_schedule(config),
    params=dag_params(config),
    catchup=False,
    default_args={
        "owner": config.dag.owner if config else "flywheel",
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=10),
        **KEEPS_FAILURES,
    },
    on_failure_callback=notify_failure,
    doc_md=__doc__,
)
def flywheel() -> None:
    """Turn the wheel once."""
    students, candidates = plan(), curate()
    base_eval = runtime.tasks("base_eval").expand(student=students)
    champion_eval = runtime.task("champion_eval", student=CHAMPION)
    jobs = [base_eval, champion_eval, candidate.expand_kwargs(candidates)]
    if config is not None and config.icl_config is not None:
        jobs.append(runtime.tasks("icl_eval").expand(student=students))

    labelled = label.override(**pool_of_label(config))()
    if confirms_cost(config):
        students >> ConfirmOperator(task_id="confirm") >> labelled
    students >> labelled >> ingest() >> candidates >> jobs
    promoted = promote()
    jobs >> score() >> ReviewOperator(task_id="review") >> promoted
    if sweep := runtime.sweep():
        jobs >> sweep
    serve = runtime.serve() or (await_endpoint() if has_endpoint(config) else None)
    chain(promoted, *filter(None, (serve, runtime.clean_up())))


flywheel()
