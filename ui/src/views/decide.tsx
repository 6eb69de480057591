/** What a person may do about the champion: put another candidate into production, or the champion before back. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

import { type CandidateLines, type Champion, type Me, Problem, type Promoted, type RunLines, post, query } from "../api";
import { useAnswer } from "../hooks";
import { keyOf } from "../logic/candidates";
import { f1 } from "../logic/format";
import { Dialog, Section, Select, Told, pickName } from "../parts";

const RUNS_OFFERED = 200;

interface DecideProps {
  workload: string;
  client: string;
  standing: Champion | null;
  /** What a rollback would put back. */
  before: Champion | null;
  onDone: () => void;
}

export function Decide(props: DecideProps) {
  const { standing, before, onDone } = props;
  const me = useAnswer<Me>("me").data;
  const [asked, setAsked] = useState<"promote" | "rollback" | null>(null);
  const [done, setDone] = useState<Promoted | null>(null);
  const may = !!me?.may.promote;
  const why = !me
    ? ""
    : !may
      ? "You may look at the champions, but not change them: Airflow asks for the right to edit the DAG and to create asset events."
      : standing && !before
        ? "It is the first champion here: there is none to roll back to."
        : "";

  function finish(promoted: Promoted) {
    setAsked(null);
    setDone(promoted);
    onDone();
  }

  return (
    <Section title="Change it">
      <div class="row">
        <button type="button" disabled={!may} aria-describedby="decide-why" onClick={() => setAsked("promote")}>
          Promote a candidate …
        </button>
        <button
          type="button"
          class="danger"
          disabled={!may || !before}
          aria-describedby="decide-why"
          onClick={() => setAsked("rollback")}
        >
          {before ? `Roll back to ${pickName(before)} …` : "Roll back …"}
        </button>
      </div>
      <p id="decide-why" class="faint">
        {why}
      </p>
      <div role="status">
        {done && (
          <p class="card">
            <span>
              <b>{pickName(done.champion)}</b> of run {done.champion.run_id} is in production now.
            </span>
            {done.warnings.map((warning) => (
              <span key={warning} class="warning reason">
                {warning}
              </span>
            ))}
          </p>
        )}
      </div>
      {asked === "promote" && <Promote {...props} onCancel={() => setAsked(null)} onDone={finish} />}
      {asked === "rollback" && standing && before && (
        <RollBack {...props} standing={standing} before={before} onCancel={() => setAsked(null)} onDone={finish} />
      )}
    </Section>
  );
}

type Asked = Omit<DecideProps, "onDone"> & { onCancel: () => void; onDone: (promoted: Promoted) => void };

function Promote({ workload, client, standing, onCancel, onDone }: Asked) {
  const [run, setRun] = useState("");
  const [candidate, setCandidate] = useState("");
  const runs = useAnswer<RunLines>(query("runs", { limit: RUNS_OFFERED, state: "success", workload, client }));
  const scored = { run, state: "scored", sort: "score", limit: 1000 };
  const candidates = useAnswer<CandidateLines>(run ? query("candidates", scored) : null);
  const lines = candidates.data?.candidates ?? [];
  const chosen = lines.find((line) => keyOf(line) === candidate);
  return (
    <Dialog title="Promote a candidate" onClose={onCancel}>
      <Confirm
        action="Promote"
        look="main"
        isReady={!!chosen}
        send={(comment) => post<Promoted>("champion", { run_id: run, student: chosen?.student, size: chosen?.size, comment })}
        onCancel={onCancel}
        onDone={onDone}
      >
        <Select
          label="Run"
          value={run}
          options={[["", "choose …"], ...(runs.data?.runs ?? []).map((one) => [one.run_id, one.run_id] as const)]}
          onChange={(one) => (setRun(one), setCandidate(""))}
        />
        <Select
          label="Candidate"
          value={candidate}
          options={[["", "choose …"], ...lines.map((line) => [keyOf(line), `${pickName(line)}, ${f1(line.score)}`] as const)]}
          onChange={setCandidate}
        />
        <p>
          {chosen ? (
            <>
              <b>{pickName(chosen)}</b> then answers in place of {standing ? pickName(standing) : "the teacher"}, for {workload} · {client}.
            </>
          ) : (
            <span class="faint">Any candidate of a run that has ended well, whatever the run itself has chosen.</span>
          )}
        </p>
      </Confirm>
    </Dialog>
  );
}

function RollBack({ workload, client, standing, before, onCancel, onDone }: Asked & { standing: Champion; before: Champion }) {
  const path = query("champion/rollback", { workload_id: workload, client_id: client });
  return (
    <Dialog title={`Roll back to ${pickName(before)}?`} onClose={onCancel}>
      <Confirm
        action="Roll back"
        look="danger"
        isReady
        send={(comment) => post<Promoted>(path, { comment })}
        onCancel={onCancel}
        onDone={onDone}
      >
        <p>
          <b>{pickName(before)}</b> of run {before.run_id}, {f1(before.score)}, then answers in place of {pickName(standing)},{" "}
          {f1(standing.score)}, for {workload} · {client}.
        </p>
      </Confirm>
    </Dialog>
  );
}

interface ConfirmProps<Answer> {
  children: ComponentChildren;
  action: string;
  look: "main" | "danger";
  isReady: boolean;
  send: (comment: string) => Promise<Answer>;
  onCancel: () => void;
  onDone: (answer: Answer) => void;
}

/** A question with a comment, and the button that says yes to it. */
export function Confirm<Answer>({ children, action, look, isReady, send, onCancel, onDone }: ConfirmProps<Answer>) {
  const [comment, setComment] = useState("");
  const [isSending, setSending] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);

  async function confirm() {
    setSending(true);
    setProblem(null);
    try {
      onDone(await send(comment));
    } catch (error) {
      setProblem(Problem.of(error));
      setSending(false);
    }
  }

  return (
    <form class="review" onSubmit={(event) => event.preventDefault()}>
      {children}
      <label class="field">
        <span>Comment</span>
        <textarea
          rows={2}
          maxLength={1000}
          value={comment}
          onInput={(event) => setComment((event.currentTarget as HTMLTextAreaElement).value)}
        />
      </label>
      {problem && <Told problem={problem} />}
      <div class="row">
        <button type="button" class={look} disabled={isSending || !isReady} onClick={() => void confirm()}>
          {action}
        </button>
        <button type="button" onClick={onCancel}>
          Cancel
        </button>
      </div>
    </form>
  );
}
