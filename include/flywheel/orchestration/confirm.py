"""A person's word before much is asked of the teacher: a task of Airflow's own UI, before `label`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException

from flywheel.orchestration import four_eyes
from flywheel.runtimes.context import run_of

# Between two looks at whether another run's question is answered; such a run holds no slot, and needs no
# triggerer, which a laptop does not run.
LOOK_AGAIN = timedelta(seconds=30)


class ConfirmOperator(ApprovalOperator):
    """Asks whether the teacher shall be asked so much, where it is above `teacher.confirm_above`.

    Below, it passes at once. A 'yes' is remembered (flywheel.stages.confirmation), so that a backfill asks
    once: the other nights wait for the answer to the first one's question. After a 'no', or without an answer
    in `promotion.approval_timeout_hours`, the run fails before anything is asked.
    """

    def __init__(self, **arguments: Any) -> None:
        arguments["params"] = {}
        super().__init__(
            subject="Ask the teacher?",
            defaults=self.REJECT,
            doc_md="Ask a person, where labelling will cost more than `teacher.confirm_above`.",
            **arguments,
        )

    def execute(self, context: Any) -> Any:
        """Pass at once, or write the question and wait for its answer."""
        from flywheel.config import load_config
        from flywheel.stages import confirmation

        run = run_of(context)
        refusal = confirmation.refusal_of(run)
        if refusal:
            raise AirflowFailException(refusal)
        # The limit is the operator's, as the files say now: the run's frozen copy does not loosen it.
        limit = load_config(experiment=run.plan.experiment).teacher.confirm_above
        found = confirmation.needed(run, limit)
        if found is None:
            return {"confirmed": True, "by": "config"}
        wait = timedelta(hours=run.plan.config.promotion.approval_timeout_hours)
        other = confirmation.asks_elsewhere(run, wait)
        if other is not None:
            self.log.info("%s; run %s asks a person already, and its answer counts here", found.line(), other)
            again = datetime.now(UTC) + LOOK_AGAIN
            raise AirflowRescheduleException(again)  # type: ignore[no-untyped-call]  # Airflow's own
        self.subject = f"Ask the teacher for {found.ask:,} answers ({run.plan.workload_id})?"
        self.body = (
            f"{four_eyes.told(context)}{found.whole_line()}.\n\n"
            "A yes counts for all headlines that are there now, so for the nights "
            f"of a backfill too. Prompt: version {found.version}; teacher: {run.plan.config.teacher.model}."
        )
        self.response_timeout = wait
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Take the answer; ask again where it is a yes that does not count (promotion.four_eyes)."""
        from flywheel.stages import confirmation
        from flywheel.stages.forecast import forecast

        answer = HITLOperator.execute_complete(self, context, event)
        run = run_of(context)
        by = (answer["responded_by_user"] or {}).get("name") or "nobody in time"
        if answer["chosen_options"][0] != self.APPROVE:
            refusal = f"the teacher was not asked: rejected by {by} (teacher.confirm_above)"
            confirmation.refuse(run, refusal)
            raise AirflowFailException(refusal)
        if not_counted := four_eyes.refusal(context, by):
            self.log.warning("%s; asked again", not_counted)
            return self.execute(context)
        found = forecast(run.plan)
        if found is not None:
            confirmation.confirm(run, found, by)
        return {"confirmed": True, "by": by}
