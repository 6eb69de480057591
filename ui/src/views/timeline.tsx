/** Who was, or would have been, in production after each night, by what was known at its cutoff. */

import type { Entries, Placed } from "../api";
import { PlaceLink, to } from "../context";
import { f1, moment } from "../logic/format";
import { Badge, Pager, Scroll, Section, pickName } from "../parts";

interface TimelineProps {
  entries: Entries;
  page: number;
  rows: number;
  onPage: (page: number) => void;
}

const KINDS: Record<Placed["kind"], string> = { night: "night", backfill: "in the past", person: "person" };

export function TimelineSection({ entries, page, rows, onPage }: TimelineProps) {
  return (
    <Section title="Timeline">
      <p class="faint">
        What each night decided by its cutoff. A night in the past shows who would have been in production, and changed nothing.
      </p>
      <Scroll label="Timeline">
        <table class="wide">
          <caption class="unseen">Decisions, the latest first</caption>
          <thead>
            <tr>
              <th scope="col">Cutoff</th>
              <th scope="col">Decision</th>
              <th scope="col">In production then</th>
              <th scope="col" class="figure">
                Score
              </th>
              <th scope="col">Run</th>
              <th scope="col">Why</th>
            </tr>
          </thead>
          <tbody>
            {entries.entries.map((entry) => (
              <Row key={`${entry.at} ${entry.kind} ${entry.run_id} ${entry.decision}`} entry={entry} />
            ))}
          </tbody>
        </table>
      </Scroll>
      <Pager page={page} size={rows} total={entries.total} what="decisions" onPage={onPage} />
    </Section>
  );
}

function Row({ entry }: { entry: Placed }) {
  return (
    <tr>
      <td class="figure-left">
        {moment(new Date(entry.at * 1000))} <span class="faint">{entry.by ? `by ${entry.by}` : KINDS[entry.kind]}</span>
      </td>
      <td>
        <Badge state={entry.decision} />
      </td>
      <th scope="row">{entry.champion ? pickName(entry.champion) : <span class="faint">the teacher</span>}</th>
      <td class="figure">{entry.champion ? f1(entry.champion.score) : ""}</td>
      <td>
        <PlaceLink place={to({ view: "run", run: entry.run_id })}>{entry.run_id}</PlaceLink>
      </td>
      <td class="reason">
        {entry.reason}
        {!entry.in_line && (
          <span class="warning"> It was compared with another champion than the one that stands before it now: backfill it anew.</span>
        )}
      </td>
    </tr>
  );
}
