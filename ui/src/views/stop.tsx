/** Whether the champion answers at the endpoint, and what stops and resumes it. */

import { useState } from "preact/hooks";

import { type Me, type Nights, type Stopped, post, query } from "../api";
import { useAnswer } from "../hooks";
import { moment } from "../logic/format";
import { Dialog, Section } from "../parts";
import { Confirm } from "./decide";
import { TakeBack, useTakeBack } from "./take-back";

const INSTEAD = "A cascade's teacher answers all, or without a cascade the endpoint refuses (503) and says why";

interface StopProps {
  production: Nights;
  onChanged: () => void;
}

export function StopOrResume({ production, onChanged }: StopProps) {
  const me = useAnswer<Me>("me").data;
  const [isAsked, setAsked] = useState(false);
  const { stop, workload_id: workload, client_id: client } = production;
  const path = query("champion/stop", { workload_id: workload, client_id: client });
  const resume = useTakeBack(path, onChanged);
  const may = !!me?.may.promote;

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
        <button type="button" class={stop ? "main" : "danger"} disabled={!may} aria-describedby="decide-why" onClick={stop ? resume.ask : () => setAsked(true)}>
          {stop ? "Resume …" : "Stop the champion …"}
        </button>
      </div>
      <TakeBack way={resume} title="Resume the champion?" action="Resume">
        <p>
          The champion in force of {workload} · {client} then answers again.
        </p>
      </TakeBack>
      {isAsked && !stop && (
        <Dialog title="Stop the champion?" onClose={() => setAsked(false)}>
          <Confirm
            action="Stop"
            look="danger"
            isReady
            send={(comment) => post<Stopped>(path, { comment })}
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
