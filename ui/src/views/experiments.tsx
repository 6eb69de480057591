/** All experiments: what is in production for whom, since when, at what cost, and how it does. */

import type { ComponentChildren } from "preact";

import type { ExperimentLine, ExperimentLines } from "../api";
import { PlaceLink, to, usePage } from "../context";
import { useAnswer } from "../hooks";
import { NONE, day, f1, interval, moment, money, percent } from "../logic/format";
import { experimentIn, shownExperiment } from "../logic/experiments";
import { Badge, Scroll, Section, Select, pickName } from "../parts";
import { METRICS } from "../schema";

const LIVE_SECONDS = 30;

export function useExperiments(): ExperimentLine[] {
  return useAnswer<ExperimentLines>("experiments", LIVE_SECONDS).data?.experiments ?? [];
}

/** A row for each experiment; nothing where there is but one, which the card of its champion tells of. */
export function ExperimentsSection({ lines }: { lines: ExperimentLine[] }) {
  return (
    <Section title="In production">
      <Scroll label="Experiments">
        <table class="wide stacks">
          <caption class="unseen">What is in production, by experiment</caption>
          <thead>
            <tr>
              <th scope="col">Experiment</th>
              <th scope="col">Champion</th>
              <th scope="col">Score</th>
              <th scope="col" class="figure">
                Agreement
              </th>
              <th scope="col">Since</th>
              <th scope="col" class="figure">
                Cost so far
              </th>
              <th scope="col">Next run</th>
              <th scope="col">Last run</th>
            </tr>
          </thead>
          <tbody>
            {lines.map((line) => (line.error ? <Broken key={line.name} line={line} /> : <Row key={line.name} line={line} />))}
          </tbody>
        </table>
      </Scroll>
    </Section>
  );
}

function Row({ line }: { line: ExperimentLine }) {
  const { champion, last_run: last, agreement, cost, month } = line;
  const of = [line.workload_id, line.client_id].map(encodeURIComponent).join("/");
  return (
    <tr>
      <Name line={line} />
      <Value label="Champion">
        <PlaceLink place={to({ view: "champion", of })}>{champion ? pickName(champion) : "the teacher"}</PlaceLink>{" "}
        {line.stop && <span class="badge is-failed">stopped</span>}
      </Value>
      <Value label="Score">
        {champion ? `${(METRICS[champion.metric] ?? METRICS.f1_weighted).short} ` : NONE}
        {champion && <b class="figure">{f1(champion.score)}</b>}
        {champion && <span class="faint sub">{interval(champion.score_ci95)}</span>}
      </Value>
      <Value label="Agreement" isFigure>
        {agreement?.value == null ? NONE : percent(agreement.value)}
        {agreement?.value != null && (
          <span class="faint sub">
            {percent(agreement.low)} to {percent(agreement.high)}
          </span>
        )}
      </Value>
      <Value label="Since">{champion ? day(champion.promoted_at) : NONE}</Value>
      <Value label="Cost so far" isFigure>
        {cost ? money(cost.total, cost.currency) : NONE}
        {month?.cost.total != null && (
          <span class="faint sub">
            {month.month}: {money(month.cost.total, month.cost.currency)}
          </span>
        )}
      </Value>
      <Value label="Next run">{line.is_paused ? "paused" : line.next_run ? moment(line.next_run) : "by hand"}</Value>
      <Value label="Last run">
        {last ? (
          <PlaceLink place={to({ view: "run", run: last.run_id })} label={`${last.run_id}: ${last.state}`}>
            <Badge state={last.state} />
          </PlaceLink>
        ) : (
          NONE
        )}
      </Value>
    </tr>
  );
}

/** A cell that tells its column, where a row is a block of its own. */
function Value({ label, isFigure, children }: { label: string; isFigure?: boolean; children: ComponentChildren }) {
  return (
    <td class={isFigure ? "figure" : ""} data-label={label}>
      {children}
    </td>
  );
}

function Broken({ line }: { line: ExperimentLine }) {
  return (
    <tr>
      <Name line={line} />
      <td colSpan={7} class="reason">
        <span class="badge is-failed">wrong file</span> {line.error}
      </td>
    </tr>
  );
}

function Name({ line }: { line: ExperimentLine }) {
  return (
    <th scope="row">
      <PlaceLink place={to({ experiment: shownExperiment(line.name) })}>{shownExperiment(line.name)}</PlaceLink>
      {!line.error && (
        <span class="faint sub">
          {line.workload_id} · {line.client_id}
        </span>
      )}
    </th>
  );
}

/** The filter by experiment, where there are several. */
export function ExperimentFilter({ lines }: { lines: ExperimentLine[] }) {
  const { place, go } = usePage();
  const names = lines.map((line) => shownExperiment(line.name));
  const shown = place.experiment && !names.includes(place.experiment) ? [...names, place.experiment] : names;
  if (shown.length < 2) return null;
  return (
    <Select
      label="Experiment"
      value={place.experiment}
      options={[["", "all"], ...shown.map((name) => [name, name] as const)]}
      onChange={(experiment) => go({ experiment, page: 1 }, true)}
    />
  );
}

/** Return what of the experiment that is shown goes into a query of the API. */
export function experimentQuery(place: { experiment: string }): string {
  return place.experiment ? `&experiment=${encodeURIComponent(experimentIn(place.experiment))}` : "";
}
