"""The review of a promotion: by the config alone, or by a person in Airflow's own UI."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from flywheel.orchestration import four_eyes
from flywheel.runs.run import Run
from flywheel.runtimes.context import run_of
from flywheel.runtimes.seal import is_sealed, sealed


class ReviewOperator(ApprovalOperator):
    """Asks whether the chosen candidate shall be promoted, where the run's plan wants a person to say so.

    Without an answer in `promotion.approval_timeout_hours` the answer is no. Unlike its base class it lets
    the next task run after a 'no' too: `promote` then keeps the champion and records that it was rejected.

    A night in the past asks nobody, for nothing can go into production by it. A person's word that holds
    against the choice is named in the question.

    With `promotion.four_eyes` the yes of the one who started the run does not count: it is asked again.

    Returns {"run_id", "choice", "approved", "by", "comment", "seal"}: an answer holds for this run's choice
    alone.
    """

    def __init__(self, **arguments: Any) -> None:
        # Those of the DAG, which it may be given here, are no part of what a person is asked.
        arguments["params"] = {
            # Null, not an empty text: else Airflow's form wants words before it lets anybody answer.
            "comment": Param(None, type=["null", "string"], title="Comment", maxLength=1000, source="task")
        }
        super().__init__(
            subject="Promote the chosen candidate?",
            defaults=self.REJECT,
            doc_md="Ask a person, where the run wants one, whether the chosen candidate shall be promoted.",
            **arguments,
        )

    def execute(self, context: Any) -> Any:
        """Decide at once, or write the request and wait for its answer."""
        from flywheel.promotion.champion import read_state
        from flywheel.report import read_report, render_markdown
        from flywheel.stages.night import hold_on, night_of

        run = run_of(context)
        plan, report = run.plan, read_report(run.root, run.run_id)
        choice = report.decision.choice
        state = read_state(run.root, plan.workload_id, plan.client_id)
        row = report.candidate(choice.student, choice.size) if choice else None
        night = night_of(run.root, plan, row, state)
        if plan.approval == "automatic" or choice is None or night.in_past:
            return _answer(run, approved=True, by="config", comment="")
        self.subject = f"Promote {choice.student} @ {choice.size} for {plan.workload_id}?"
        hold = hold_on(run.root, plan, report, night, state)
        said = f"{hold.sentence(plan.config.promotion.hold_share)}\n\n" if hold else ""
        self.body = f"{four_eyes.told(context)}{said}{render_markdown(report)}"
        self.response_timeout = timedelta(hours=plan.config.promotion.approval_timeout_hours)
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Take the answer; ask again where it is a yes that does not count."""
        from flywheel.promotion.holds import NOBODY

        answer = HITLOperator.execute_complete(self, context, event)
        approved = answer["chosen_options"][0] == self.APPROVE
        user = answer["responded_by_user"]
        by = (user or {}).get("name") or NOBODY
        if approved and (refusal := four_eyes.refusal(context, by)):
            self.log.warning("%s; asked again", refusal)
            return self.execute(context)
        said = str(answer["params_input"].get("comment") or "").strip()
        comment = f"{'approved' if approved else 'rejected'} by {by}{f': {said}' if said else ''}"
        return _answer(run_of(context), approved=approved, by=by, comment=comment)


def answer_of(context: Any, run: Run) -> dict[str, Any]:
    """Return what the review of a run has answered.

    Raises:
        AirflowFailException: it has not, or to another question; somebody else's answer is none.
    """
    answer = context["ti"].xcom_pull(task_ids="review")
    if not is_sealed("review", answer) or (answer["run_id"], answer["choice"]) != (run.run_id, _choice(run)):
        raise AirflowFailException(
            "the task review has given no answer to this run's choice (marking it as done is none); "
            "clear it, and it asks again"
        )
    return dict(answer)


def _answer(run: Run, *, approved: bool, by: str, comment: str) -> dict[str, Any]:
    told = {"run_id": run.run_id, "choice": _choice(run), "approved": approved, "by": by, "comment": comment}
    return sealed("review", told)


def _choice(run: Run) -> str:
    from flywheel.report import read_report

    choice = read_report(run.root, run.run_id).decision.choice
    return f"{choice.student} @ {choice.size}" if choice else ""
