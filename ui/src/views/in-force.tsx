/** Which champion was in force from when until when, and why there was none. */

import type { InForce, Stretches } from "../api";
import { PlaceLink, to } from "../context";
import { moment } from "../logic/format";
import { Scroll, Section, pickName } from "../parts";

const DAY = 86_400;

export function InForceSection({ found }: { found: Stretches }) {
  const more = found.total - found.stretches.length;
  return (
    <Section title="In force">
      <p class="faint">
        From when until when, without a gap: a text of a time was, or would have been, answered by the champion of its row.
        {more > 0 && ` ${more} earlier ones are not shown.`}
      </p>
      <Scroll label="In force">
        <table class="wide">
          <caption class="unseen">Champions in force, the latest first</caption>
          <thead>
            <tr>
              <th scope="col">From</th>
              <th scope="col">Until</th>
              <th scope="col">Champion</th>
              <th scope="col">Cutoff before the end</th>
              <th scope="col">Run</th>
              <th scope="col">Why</th>
            </tr>
          </thead>
          <tbody>
            {found.stretches.map((one) => (
              <Row key={`${one.since}`} one={one} />
            ))}
          </tbody>
        </table>
      </Scroll>
    </Section>
  );
}

function Row({ one }: { one: InForce }) {
  const changed = Object.entries(one.unchanged);
  return (
    <tr>
      <td class="figure-left">{one.since === null ? "the beginning" : moment(new Date(one.since * 1000))}</td>
      <td class="figure-left">{one.until === null ? "now" : moment(new Date(one.until * 1000))}</td>
      <th scope="row">
        {one.champion ? pickName(one.champion) : <span class="faint">the teacher</span>}
        {one.kind === "backfill" && <span class="faint"> would have been</span>}
      </th>
      <td class="figure-left">{one.behind === null ? "" : `${(one.behind / DAY).toFixed(1)} days`}</td>
      <td>{one.champion && <PlaceLink place={to({ view: "run", run: one.champion.run_id })}>{one.champion.run_id}</PlaceLink>}</td>
      <td class="reason">
        {one.by && `By ${one.by}. `}
        {one.reason}
        {changed.length > 0 && ` Decided since without a change: ${changed.map(([name, count]) => `${name} ${count}`).join(", ")}.`}
        {!one.in_line && <span class="warning"> Compared with another champion than the one before it now: backfill it anew.</span>}
      </td>
    </tr>
  );
}
