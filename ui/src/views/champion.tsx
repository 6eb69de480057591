/** The champion in production, and all there were, night after night. */

import { useState } from "preact/hooks";

import { type Champion, type Costs, type Entries, type ExperimentLine, type Held, type History, Problem, type Stretches, query } from "../api";
import { Chart, type Point } from "../charts/chart";
import { PlaceLink, to, usePage } from "../context";
import { useAnswer } from "../hooks";
import { day, f1, interval, moment, parameters } from "../logic/format";
import { METRICS } from "../schema";
import { Missing, Pager, Section, pickName } from "../parts";
import { CostsSection } from "./costs";
import { Decide } from "./decide";
import { HoldCard } from "./hold";
import { InForceSection } from "./in-force";
import { TimelineSection } from "./timeline";

const ROWS = 50;

export function useChampion(path: string, more: Record<string, number> = {}) {
  const { place } = usePage();
  const [workload, client] = place.of.split("/").map(decodeURIComponent);
  return query(path, { workload_id: workload, client_id: client, ...more });
}

/** The champion of an experiment in a line, for the top of the list of runs. */
export function ChampionCard({ of }: { of: ExperimentLine | undefined }) {
  const whose = of && { workload_id: of.workload_id, client_id: of.client_id };
  const { data, problem } = useAnswer<Champion>(whose ? query("champion", whose) : null);
  const place = to({ view: "champion", ...(whose && of.name && { of: Object.values(whose).map(encodeURIComponent).join("/") }) });
  if (problem && problem.status !== 404) return null;
  return (
    <p class="card champion">
      <span class="faint">In production{whose && ` for ${whose.workload_id} · ${whose.client_id}`}</span>
      {data ? <InProduction champion={data} /> : <b>{problem ? "the teacher: there is no champion yet" : "…"}</b>}
      <PlaceLink place={place}>History</PlaceLink>
    </p>
  );
}

function InProduction({ champion }: { champion: Champion }) {
  return (
    <>
      <b>{pickName(champion)}</b>
      <span>
        {(METRICS[champion.metric] ?? METRICS.f1_weighted).short} <b class="figure">{f1(champion.score)}</b> <span class="faint">({interval(champion.score_ci95)})</span>
      </span>
      <span>{parameters(champion.parameters)} parameters</span>
      <span>
        since {moment(champion.promoted_at)}, by run{" "}
        <PlaceLink place={to({ view: "run", run: champion.run_id })}>{champion.run_id}</PlaceLink>
      </span>
    </>
  );
}

export function ChampionView() {
  const { place, go } = usePage();
  const current = useAnswer<Champion>(useChampion("champion"));
  const history = useAnswer<History>(useChampion("champion/history"));
  const held = useAnswer<Held>(useChampion("champion/hold"));
  const [entriesPage, setEntriesPage] = useState(1);
  const entries = useAnswer<Entries>(useChampion("champion/timeline", { limit: ROWS, offset: (entriesPage - 1) * ROWS }));
  const inForce = useAnswer<Stretches>(useChampion("champion/in-force", { limit: ROWS, offset: 0 }));
  const costs = useAnswer<Costs>(useChampion("costs"));
  const reload = () => [current, history, held, entries, inForce].forEach((answer) => answer.reload());
  const { data, problem, isLoading } = history;
  const none = current.problem?.status === 404 ? new Problem(404, current.problem.message) : null;
  const from = (place.page - 1) * ROWS;
  return (
    <main>
      <h1 tabIndex={-1}>Champion</h1>
      {current.data && (
        <div class="card champion">
          <span class="faint">
            {current.data.workload_id} · {current.data.client_id}
          </span>
          <InProduction champion={current.data} />
          <span class="reason">{current.data.reason}</span>
        </div>
      )}
      {none && <p class="note">{none.message}</p>}
      {data && (
        <Decide
          workload={data.workload_id}
          client={data.client_id}
          standing={current.data}
          before={data.before}
          onDone={reload}
        />
      )}
      {data && held.data && (
        <HoldCard held={held.data} workload={data.workload_id} client={data.client_id} onLifted={reload} />
      )}
      {data && data.champions.length > 0 && (
        <>
          <Section title="Over the nights">
            <HistoryChart champions={data.champions} />
          </Section>
          <Section title="All champions">
            <HistoryTable champions={data.champions.slice(from, from + ROWS)} />
            <Pager page={place.page} size={ROWS} total={data.total} what="champions" onPage={(page) => go({ page })} />
          </Section>
        </>
      )}
      {costs.data && <CostsSection found={costs.data} />}
      {inForce.data && entries.data && entries.data.total > 0 && <InForceSection found={inForce.data} />}
      {entries.data && entries.data.total > 0 && (
        <TimelineSection entries={entries.data} page={entriesPage} rows={ROWS} onPage={setEntriesPage} />
      )}
      {!data && <Missing problem={problem} isLoading={isLoading} what="the history" />}
    </main>
  );
}

/** The score of what was in production, from one promotion to the next; a series for each student. */
function HistoryChart({ champions }: { champions: Champion[] }) {
  const { go } = usePage();
  const rising = [...champions].reverse();
  const point = (one: Champion): Point => ({
    x: Date.parse(one.promoted_at),
    y: one.score,
    interval: one.score_ci95,
    text: `${day(one.promoted_at)}: ${pickName(one)}, ${(METRICS[one.metric] ?? METRICS.f1_weighted).short} ${f1(one.score)}`,
    id: one.run_id,
  });
  const students = [...new Set(rising.map((one) => one.student))];
  const line = { name: "in production", points: rising.map(point), look: 6, line: true, steps: true, markers: false };
  // The points of the line are those of the students: they are read once.
  const series = students.map((name, index) => ({
    name,
    points: rising.filter((one) => one.student === name).map(point),
    look: index % 6,
  }));
  return (
    <Chart
      title="Score of the champion, on the held-out records of its own night"
      x={{ label: "promoted", kind: "time", read: (value) => moment(new Date(value)) }}
      y={{ label: "score against the teacher", whole: [0, 1] }}
      series={series}
      under={line}
      onPick={(run) => go(to({ view: "run", run }))}
    />
  );
}

function HistoryTable({ champions }: { champions: Champion[] }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="All champions">
      <table class="wide">
        <caption class="unseen">Champions, the latest first</caption>
        <thead>
          <tr>
            <th scope="col">Promoted</th>
            <th scope="col">Candidate</th>
            <th scope="col" class="figure">
              Score
            </th>
            <th scope="col">95 % interval</th>
            <th scope="col">Run</th>
            <th scope="col">Why</th>
          </tr>
        </thead>
        <tbody>
          {champions.map((one) => (
            <tr key={`${one.promoted_at} ${one.run_id}`}>
              <td class="figure-left">{moment(one.promoted_at)}</td>
              <th scope="row">{pickName(one)}</th>
              <td class="figure">{f1(one.score)}</td>
              <td class="figure-left">{interval(one.score_ci95)}</td>
              <td>
                <PlaceLink place={to({ view: "run", run: one.run_id })}>{one.run_id}</PlaceLink>
              </td>
              <td class="reason">
                {one.reason} {one.comment}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
