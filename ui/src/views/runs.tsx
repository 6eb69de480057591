/** The list of all runs, page by page, with the champion above it. */

import { useState } from "preact/hooks";

import { type RunLine, type RunLines, query } from "../api";
import { PlaceLink, to, usePage } from "../context";
import { useAnswer } from "../hooks";
import { experimentIn, shownExperiment } from "../logic/experiments";
import { duration, moment } from "../logic/format";
import { Badge, Missing, Pager, Picked, Select } from "../parts";
import { Backfill } from "./backfill";
import { ChampionCard } from "./champion";
import { ExperimentFilter, ExperimentsSection, experimentQuery, useExperiments } from "./experiments";
import { FailureLine } from "./failure";

const ROWS = 50;
const LIVE_SECONDS = 5;
const STATES = [
  ["", "all"],
  ["running", "running"],
  ["review", "waits for review"],
  ["success", "success"],
  ["failed", "failed"],
  ["cancelled", "cancelled"],
  ["queued", "queued"],
] as const;

interface RunsProps {
  /** The experiment whose page of Airflow's this is on, as people are shown it; empty: all are listed. */
  of: string;
}

export function RunsView({ of }: RunsProps) {
  const { place, go } = usePage();
  const lines = useExperiments();
  const experiment = of || place.experiment;
  const [marked, setMarked] = useState<string[]>([]);
  const filters = { state: place.state, workload: place.workload };
  const path = query("runs", { limit: ROWS, offset: (place.page - 1) * ROWS, ...filters }) + experimentQuery({ experiment });
  const { data, problem, isLoading, reload } = useAnswer<RunLines>(path, LIVE_SECONDS);

  function mark(run: string, isMarked: boolean) {
    setMarked(isMarked ? [...marked, run].slice(-2) : marked.filter((one) => one !== run));
  }

  return (
    <main>
      <h1 tabIndex={-1}>Results</h1>
      {lines.length > 1 && !of ? <ExperimentsSection lines={lines} /> : <ChampionCard of={lines.find((line) => shownExperiment(line.name) === experiment) ?? lines[0]} />}
      <form class="filters" onSubmit={(event) => event.preventDefault()} aria-label="Filter the runs">
        {!of && <ExperimentFilter lines={lines} />}
        <Select label="State" value={place.state} options={STATES} onChange={(state) => go({ state, page: 1 }, true)} />
        <label class="field">
          <span>Workload</span>
          <input
            type="search"
            defaultValue={place.workload}
            placeholder="all"
            onChange={(event) => go({ workload: (event.currentTarget as HTMLInputElement).value.trim(), page: 1 }, true)}
          />
        </label>
        <button type="button" class="main" disabled={marked.length !== 2} onClick={() => go(to({ view: "compare", compare: marked }))}>
          Compare two runs
        </button>
        <Backfill experiment={experimentIn(experiment)} onStarted={reload} />
        <span class="faint" role="status">
          {marked.length === 0 ? "Mark two runs to put them side by side." : `${marked.length} of 2 marked`}
        </span>
      </form>
      {data ? (
        <>
          <Table runs={data.runs} marked={marked} onMark={mark} />
          <Pager page={place.page} size={ROWS} total={data.total} what="runs" onPage={(page) => go({ page })} />
        </>
      ) : (
        <Missing problem={problem} isLoading={isLoading} what="runs" />
      )}
    </main>
  );
}

interface TableProps {
  runs: RunLine[];
  marked: string[];
  onMark: (run: string, isMarked: boolean) => void;
}

function Table({ runs, marked, onMark }: TableProps) {
  if (!runs.length) return <p class="note">No run is like that. Trigger a DAG of the flywheel to start one.</p>;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Runs">
      <table class="wide">
        <caption class="unseen">Runs, the latest first</caption>
        <thead>
          <tr>
            <th scope="col">
              <span class="unseen">Compare</span>
            </th>
            <th scope="col">Run</th>
            <th scope="col">State</th>
            <th scope="col" class="roomy">Data before</th>
            <th scope="col">Best candidate, score</th>
            <th scope="col">Promotion</th>
            <th scope="col" class="figure roomy">
              Scored
            </th>
            <th scope="col" class="figure roomy">
              Took
            </th>
          </tr>
        </thead>
        <tbody>
          {runs.map((run) => (
            <Row key={run.run_id} run={run} isMarked={marked.includes(run.run_id)} onMark={onMark} />
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Row({ run, isMarked, onMark }: { run: RunLine; isMarked: boolean; onMark: TableProps["onMark"] }) {
  const seconds = run.ended_at ? (Date.parse(run.ended_at) - Date.parse(run.started_at)) / 1000 : null;
  return (
    <tr class={isMarked ? "is-marked" : ""}>
      <td>
        <input
          type="checkbox"
          checked={isMarked}
          aria-label={`Mark ${run.run_id} for comparison`}
          onChange={(event) => onMark(run.run_id, (event.currentTarget as HTMLInputElement).checked)}
        />
      </td>
      <th scope="row">
        <PlaceLink place={to({ view: "run", run: run.run_id })}>{run.run_id}</PlaceLink>
        <span class="faint sub">
          {run.workload_id || "–"} · {run.client_id || "–"} · {run.run_type}
        </span>
      </th>
      <td>
        <Badge state={run.state} />
        <FailureLine run={run} />
      </td>
      <td class="figure-left roomy">{moment(run.cutoff)}</td>
      <td>
        <Picked pick={run.best} />
      </td>
      <td>{run.decision ? <Badge state={run.decision} /> : <span class="faint">–</span>}</td>
      <td class="figure roomy">
        {run.scored} of {run.candidates}
      </td>
      <td class="figure roomy">{duration(seconds)}</td>
    </tr>
  );
}
