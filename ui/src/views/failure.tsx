/** Why a run failed: which stage, the sentence, what to do, and where its log is. */

import type { RunDetail, RunLine } from "../api";
import { AirflowLink } from "../context";

export function FailureCard({ run }: { run: RunDetail }) {
  const { failure } = run;
  if (!failure) return null;
  const what = failure.is_stuck ? "is stuck" : failure.tries_again ? `failed in try ${failure.try_number}` : "failed";
  const of = failure.task_id ? `${run.links.airflow}/tasks/${encodeURIComponent(failure.task_id)}` : run.links.airflow;
  const log = failure.map_index < 0 ? of : `${of}/mapped/${failure.map_index}`;
  return (
    <section class="card failure" aria-label={failure.is_stuck ? "What the run is stuck at" : "Why the run failed"}>
      <h2>
        {failure.job || (failure.task_id ? failure.stage : "The run")} {what}
      </h2>
      <p>{failure.sentence}</p>
      <p>
        <b>{failure.mend}</b> <AirflowLink path={log}>{failure.is_stuck ? "Show in Airflow" : `Log of ${failure.job || failure.stage}`}</AirflowLink>
      </p>
    </section>
  );
}

/** The same in a list: the beginning of the sentence, all of it to read on the run's own page. */
export function FailureLine({ run }: { run: RunLine }) {
  if (!run.failure) return null;
  return (
    <span class="sub failure-line" title={run.failure.sentence}>
      {run.failure.stage}: {run.failure.sentence}
    </span>
  );
}
