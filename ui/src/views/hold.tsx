/** A person's word that holds automatic promotions back, and the button that lifts it. */

import { type Held, type Hold, type Me, query } from "../api";
import { useAnswer } from "../hooks";
import { moment } from "../logic/format";
import { Section } from "../parts";
import { TakeBack, useTakeBack } from "./take-back";

interface HoldProps {
  held: Held;
  workload: string;
  client: string;
  onLifted: () => void;
}

export function HoldCard({ held, workload, client, onLifted }: HoldProps) {
  const me = useAnswer<Me>("me").data;
  const lift = useTakeBack(query("champion/hold", { workload_id: workload, client_id: client }), onLifted);
  const may = !!me?.may.promote;

  const { hold, turned_down: others = [] } = held;
  if (!hold && !others.length) return null;
  return (
    <Section title={hold ? "A person's word holds" : "Turned down by a person"}>
      {hold && (
        <>
          <Said word={hold} />
          <p class="faint">
            Nights promote nothing by themselves until enough of their records are new (promotion.hold_share), a person promotes, or the
            hold is lifted.
          </p>
        </>
      )}
      {others.map((word) => (
        <Said key={word.adapter} word={word} />
      ))}
      {others.length > 0 && (
        <p class="faint">{hold ? "All of these are" : "That is"} not promoted by a night itself until a person promotes it or lifts this.</p>
      )}
      <div class="row">
        <button type="button" disabled={!may} aria-describedby={may ? undefined : "decide-why"} onClick={lift.ask}>
          Lift the hold …
        </button>
      </div>
      <TakeBack way={lift} title="Lift the hold?" action="Lift the hold">
        <p>
          Nights of {workload} · {client} then promote by themselves again, also what was turned down. What is in production stays.
        </p>
      </TakeBack>
    </Section>
  );
}

function Said({ word }: { word: Hold }) {
  return (
    <p>
      <b>{word.by || "Somebody"}</b> {word.why === "rolled back" ? "rolled a champion back" : "rejected a candidate"}, {moment(word.at)}
      {word.comment && `: ${word.comment}`}. <span class="faint">Adapter {word.adapter.slice(0, 12)}</span>
    </p>
  );
}
