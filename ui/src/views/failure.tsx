/** Why a run failed: which stage, the sentence, what to do, and where its log is. */

import type { RunDetail, RunLine } from "../api";
import { AirflowLink } from "../context";

export function FailureCard({ run }: { run: RunDetail }) {
  const { failure } = run;
  if (!failure) return null;
  const of = `${run.links.airflow}/tasks/${encodeURIComponent(failure.task_id)}`;
  const log = failure.map_index < 0 ? of : `${of}/mapped/${failure.map_index}`;
  return (
    <section class="card failure" aria-label="Why the run failed">
      <h2>
        {failure.job || failure.stage} {failure.tries_again ? `failed in try ${failure.try_number}` : "failed"}
      </h2>
      <p>{failure.sentence}</p>
      <p>
        <b>{failure.mend}</b> <AirflowLink path={log}>Log of {failure.job || failure.stage}</AirflowLink>
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
