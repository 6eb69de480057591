/** Nights past: which of some days are missing, what they cost, their start, and how far they are. */

import { useState } from "preact/hooks";

import { type BackfillForecast, type BackfillNight, type BackfillStatus, type Me, Problem, post, query } from "../api";
import { useAnswer } from "../hooks";
import { count, moment } from "../logic/format";
import { Badge, Dialog, Scroll, Told } from "../parts";

const LIVE_SECONDS = 3;
const RIGHT = "You may look at runs, but not start them: Airflow asks for the right to create runs of the DAG.";

interface BackfillProps {
  /** Its name; empty: config.yaml's. */
  experiment: string;
  onStarted: () => void;
}

/** The button that opens the dialog, and why it cannot be pressed. */
export function Backfill({ experiment, onStarted }: BackfillProps) {
  const me = useAnswer<Me>("me").data;
  const [isOpen, setOpen] = useState(false);
  const may = !!me?.may.trigger;
  return (
    <>
      <button type="button" disabled={!may} aria-describedby={me && !may ? "backfill-why" : undefined} onClick={() => setOpen(true)}>
        Backfill nights …
      </button>
      {me && !may && (
        <span id="backfill-why" class="unseen">
          {RIGHT}
        </span>
      )}
      {isOpen && <BackfillDialog experiment={experiment} onClose={() => setOpen(false)} onStarted={onStarted} />}
    </>
  );
}

function BackfillDialog({ experiment, onClose, onStarted }: BackfillProps & { onClose: () => void }) {
  const [from, setFrom] = useState("");
  const [to, setTo] = useState("");
  const [number, setNumber] = useState<number | null>(null);
  const [isSending, setSending] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const isAsked = from !== "" && to !== "" && number === null;
  const forecast = useAnswer<BackfillForecast>(isAsked ? query("backfills/forecast", { from_date: from, to_date: to, experiment }) : null);
  const status = useAnswer<BackfillStatus>(number === null ? null : `backfills/${number}`, LIVE_SECONDS);

  async function send(path: string, body: unknown) {
    setSending(true);
    setProblem(null);
    try {
      setNumber((await post<BackfillStatus>(path, body)).id);
      status.reload();
      onStarted();
    } catch (error) {
      setProblem(Problem.of(error));
    } finally {
      setSending(false);
    }
  }

  const found = isAsked ? forecast.data : null;
  const make = found && found.running === null ? found.make : 0;
  const going = status.data && !status.data.is_done;
  return (
    <Dialog title={experiment ? `Backfill nights of ${experiment}` : "Backfill nights"} onClose={onClose}>
      <form class="review" onSubmit={(event) => event.preventDefault()}>
        {number === null && (
          <div class="row">
            <Day label="From" value={from} onChange={setFrom} />
            <Day label="To, included" value={to} onChange={setTo} />
          </div>
        )}
        <div role="status">
          {isAsked && forecast.isLoading && <p class="faint">Counting what these nights will ask of the teacher …</p>}
          {found && <Forecast found={found} />}
          {status.data && <Progress status={status.data} />}
        </div>
        {isAsked && forecast.problem && <Told problem={forecast.problem} />}
        {problem && <Told problem={problem} />}
        <div class="row">
          {number === null && found?.running == null && (
            <button
              type="button"
              class="main"
              disabled={isSending || make === 0}
              onClick={() => void send("backfills", { from_date: from, to_date: to, experiment })}
            >
              {make === 1 ? "Make 1 night" : `Make ${make || "the"} nights`}
            </button>
          )}
          {found?.running != null && (
            <button type="button" class="main" onClick={() => setNumber(found.running ?? null)}>
              Follow backfill {found.running}
            </button>
          )}
          {going && (
            <button type="button" class="danger" disabled={isSending} onClick={() => void send(`backfills/${number}/cancel`, {})}>
              Cancel what has not begun
            </button>
          )}
          <button type="button" onClick={onClose}>
            Close
          </button>
        </div>
      </form>
    </Dialog>
  );
}

function Day({ label, value, onChange }: { label: string; value: string; onChange: (value: string) => void }) {
  return (
    <label class="field">
      <span>{label}</span>
      <input type="date" required value={value} onChange={(event) => onChange((event.currentTarget as HTMLInputElement).value)} />
    </label>
  );
}

function Forecast({ found }: { found: BackfillForecast }) {
  return (
    <>
      <p>
        <b>{found.make === 1 ? "1 night" : `${found.make} nights`} to make</b> ({found.time_zone}), one after another. {found.says}.
      </p>
      {found.confirm && <p class="warning">That is above teacher.confirm_above: the first night waits for a person under Required Actions.</p>}
      {found.running != null && <p class="warning">Backfill {found.running} is at work, and there is one at a time.</p>}
      <Nights nights={found.nights} />
    </>
  );
}

function Progress({ status }: { status: BackfillStatus }) {
  const well = status.nights.filter((night) => night.state === "success").length;
  return (
    <>
      <p>
        <b>
          {well} of {status.nights.length} nights
        </b>{" "}
        ended well{status.is_cancelled ? "; the rest was cancelled" : status.is_done ? "; the backfill is over" : ". It goes on when this is closed"}.
      </p>
      <Nights nights={status.nights} />
    </>
  );
}

function Nights({ nights }: { nights: BackfillNight[] }) {
  return (
    <Scroll label="Nights">
      <table>
        <caption class="unseen">Nights of the backfill, in order of time</caption>
        <thead>
          <tr>
            <th scope="col">Night</th>
            <th scope="col">Data before</th>
            <th scope="col">State</th>
            <th scope="col" class="figure">
              Asked
            </th>
          </tr>
        </thead>
        <tbody>
          {nights.map((night) => (
            <tr key={night.due}>
              <th scope="row">{night.night}</th>
              <td class="figure-left">{moment(night.due)}</td>
              <td>{night.state === "missing" || night.state === "to come" ? <span class="faint">{night.state}</span> : <Badge state={night.state} />}</td>
              <td class="figure">{night.asked == null ? "–" : count(night.asked)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
