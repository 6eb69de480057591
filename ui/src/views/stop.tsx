/** Whether the champion answers at the endpoint, and what stops and resumes it. */

import { useState } from "preact/hooks";

import { type Me, type Nights, Problem, type Stopped, post, query, remove } from "../api";
import { useAnswer } from "../hooks";
import { moment } from "../logic/format";
import { Dialog, Section } from "../parts";
import { Confirm } from "./decide";

const INSTEAD = "A cascade's teacher answers all, or without a cascade the endpoint refuses (503) and says why";

interface StopProps {
  production: Nights;
  onChanged: () => void;
}

export function StopOrResume({ production, onChanged }: StopProps) {
  const me = useAnswer<Me>("me").data;
  const [isAsked, setAsked] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const { stop, workload_id: workload, client_id: client } = production;
  const may = !!me?.may.promote;

  async function resume() {
    setProblem(null);
    try {
      await remove<Stopped>(query("champion/stop", { workload_id: workload, client_id: client }));
      onChanged();
    } catch (error) {
      setProblem(Problem.of(error));
    }
    setAsked(false);
  }

  return (
    <Section title={stop ? "Stopped" : "Stop it"}>
      {stop ? (
        <p class="warning" role="alert">
          <b>{stop.by || "Somebody"}</b> stopped the champion, {moment(stop.at)}
          {stop.comment && `: ${stop.comment}`}. {INSTEAD}, until it is resumed.
        </p>
      ) : (
        <p class="faint">{INSTEAD}, while the champion is stopped; runs go on.</p>
      )}
      <div class="row">
        <button type="button" class={stop ? "main" : "danger"} disabled={!may} aria-describedby="decide-why" onClick={() => setAsked(true)}>
          {stop ? "Resume …" : "Stop the champion …"}
        </button>
      </div>
      {problem && (
        <p class="problem" role="alert">
          {problem.message}
        </p>
      )}
      {isAsked && stop && (
        <Dialog title="Resume the champion?" onClose={() => setAsked(false)}>
          <p>
            The champion in force of {workload} · {client} then answers again.
          </p>
          <div class="row">
            <button type="button" class="main" onClick={() => void resume()}>
              Resume
            </button>
            <button type="button" onClick={() => setAsked(false)}>
              Cancel
            </button>
          </div>
        </Dialog>
      )}
      {isAsked && !stop && (
        <Dialog title="Stop the champion?" onClose={() => setAsked(false)}>
          <Confirm
            action="Stop"
            look="danger"
            isReady
            send={(comment) => post<Stopped>(query("champion/stop", { workload_id: workload, client_id: client }), { comment })}
            onCancel={() => setAsked(false)}
            onDone={() => (setAsked(false), onChanged())}
          >
            <p>
              The champion of {workload} · {client} then answers nothing until somebody resumes it, nor does whoever is promoted meanwhile.{" "}
              {INSTEAD}.
            </p>
          </Confirm>
        </Dialog>
      )}
    </Section>
  );
}
