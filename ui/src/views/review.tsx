/** The review of the run's choice: what was decided, or the two buttons that decide. */

import { useState } from "preact/hooks";

import { type Me, Problem, type RunDetail, post, runPath } from "../api";
import { useAnswer } from "../hooks";
import { f1, isKnown, metricOf, moment } from "../logic/format";
import { Badge, Section, Told, pickName } from "../parts";
import { Words } from "./tested";

export function ReviewTab({ run, reload }: { run: RunDetail; reload: () => void }) {
  const decision = run.report?.decision;
  return (
    <>
      <Section title="The choice">
        {decision ? (
          <>
            <p>
              {decision.choice ? (
                <>
                  <b>{pickName(decision.choice)}</b>, {metricOf(run.report).short} <b class="figure">{f1(decision.choice.score)}</b>
                </>
              ) : (
                <b>No candidate</b>
              )}{" "}
              <Badge state={decision.state} />
              {isKnown(decision.threshold) && <span class="faint"> asked for: {f1(decision.threshold)}</span>}
            </p>
            <p>{decision.reason}</p>
            {decision.outcome && <p>{decision.outcome}</p>}
            {decision.test && <Words texts={decision.test} />}
            {decision.doubts?.length ? (
              <div class="warning">
                <p>Nothing is promoted without a person, because</p>
                <Words texts={decision.doubts} />
              </div>
            ) : null}
            {decision.comment && <p class="faint">{decision.comment}</p>}
          </>
        ) : (
          <p class="note">The run has chosen nothing yet: it is not scored.</p>
        )}
      </Section>
      <Section title="Review">
        <Answer run={run} reload={reload} />
      </Section>
    </>
  );
}

function Answer({ run, reload }: { run: RunDetail; reload: () => void }) {
  const review = run.review;
  if (!review) {
    return (
      <p class="note">
        {run.approval === "human"
          ? "A person is asked once the run is scored."
          : "This run is approved automatically, as its configuration says (promotion.approval)."}
      </p>
    );
  }
  if (review.state === "waiting") return <Form run={run} subject={review.subject} reload={reload} />;
  return (
    <>
      <p>
        <b>{review.subject}</b> <Badge state={review.state} />
      </p>
      <p class="faint">
        {review.state === "ended" ? "The review ended without an answer." : `By ${review.answered_by ?? "nobody in time"}, ${moment(review.answered_at)}.`}
      </p>
      {review.comment && <blockquote>{review.comment}</blockquote>}
    </>
  );
}

function Form({ run, subject, reload }: { run: RunDetail; subject: string; reload: () => void }) {
  const me = useAnswer<Me>("me").data;
  const may = !!me?.may.review;
  const [comment, setComment] = useState("");
  const [isSending, setSending] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);

  async function send(approved: boolean) {
    setSending(true);
    setProblem(null);
    try {
      await post(runPath(run.run_id, "/review"), { decision: approved ? "approve" : "reject", comment });
      reload();
    } catch (error) {
      setProblem(Problem.of(error));
    } finally {
      setSending(false);
    }
  }

  return (
    <form class="review" onSubmit={(event) => event.preventDefault()}>
      <p>
        <b>{subject}</b>
      </p>
      <label class="field">
        <span>Comment</span>
        <textarea
          rows={3}
          maxLength={1000}
          value={comment}
          onInput={(event) => setComment((event.currentTarget as HTMLTextAreaElement).value)}
        />
      </label>
      <div class="row">
        <button type="button" class="main" disabled={isSending || !may} onClick={() => void send(true)}>
          Approve
        </button>
        <button type="button" class="danger" disabled={isSending || !may} onClick={() => void send(false)}>
          Reject
        </button>
      </div>
      {me && !may && <p class="faint">You may not answer: Airflow asks for the right to edit the DAG's human-in-the-loop details.</p>}
      {problem && <Told problem={problem} />}
    </form>
  );
}
