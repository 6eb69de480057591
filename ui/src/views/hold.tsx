/** A person's word that holds automatic promotions back, and the button that lifts it. */

import { useState } from "preact/hooks";

import { type Held, type Me, Problem, query, remove } from "../api";
import { useAnswer } from "../hooks";
import { moment } from "../logic/format";
import { Dialog, Section } from "../parts";

interface HoldProps {
  hold: NonNullable<Held["hold"]>;
  workload: string;
  client: string;
  onLifted: () => void;
}

export function HoldCard({ hold, workload, client, onLifted }: HoldProps) {
  const me = useAnswer<Me>("me").data;
  const [isAsked, setAsked] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const may = !!me?.may.promote;

  async function lift() {
    setProblem(null);
    try {
      await remove<Held>(query("champion/hold", { workload_id: workload, client_id: client }));
      onLifted();
    } catch (error) {
      setProblem(Problem.of(error));
    }
    setAsked(false);
  }

  return (
    <Section title="A person's word holds">
      <p>
        <b>{hold.by || "Somebody"}</b> {hold.why === "rolled back" ? "rolled a champion back" : "rejected a candidate"}, {moment(hold.at)}
        {hold.comment && `: ${hold.comment}`}.
      </p>
      <p class="faint">
        Nights promote nothing by themselves until enough of their records are new (promotion.hold_share), a person promotes, or the hold
        is lifted.
      </p>
      <div class="row">
        <button type="button" disabled={!may} aria-describedby={may ? undefined : "decide-why"} onClick={() => setAsked(true)}>
          Lift the hold …
        </button>
      </div>
      {problem && (
        <p class="problem" role="alert">
          {problem.message}
        </p>
      )}
      {isAsked && (
        <Dialog title="Lift the hold?" onClose={() => setAsked(false)}>
          <p>
            Nights of {workload} · {client} then promote by themselves again, also what was turned down. What is in production stays.
          </p>
          <div class="row">
            <button type="button" class="main" onClick={() => void lift()}>
              Lift the hold
            </button>
            <button type="button" onClick={() => setAsked(false)}>
              Cancel
            </button>
          </div>
        </Dialog>
      )}
    </Section>
  );
}
