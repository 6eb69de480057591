/** Two runs side by side: what each reached, and whether the difference may be chance. */

import { type ComparedRun, type Comparison, type RunLines, query } from "../api";
import { Chart, type Series } from "../charts/chart";
import { PlaceLink, to, usePage } from "../context";
import { useAnswer } from "../hooks";
import { gridOf, keyOf } from "../logic/candidates";
import { count, difference, f1, interval, moment } from "../logic/format";
import { Badge, Missing, Picked, Scroll, Section, Select, pickName } from "../parts";

const OFFERED = 200;

export function CompareView() {
  const { place, go } = usePage();
  const [first = "", second = ""] = place.compare;
  const path = first && second && first !== second ? query("compare", { runs: `${first},${second}` }) : null;
  const { data, problem, isLoading } = useAnswer<Comparison>(path);
  const listed = useAnswer<RunLines>(query("runs", { limit: OFFERED, state: "success" }));
  const names = [...new Set([first, second, ...(listed.data?.runs ?? []).map((run) => run.run_id)])].filter(Boolean);
  const options = (other: string) => [["", "choose …"] as const, ...names.filter((name) => name !== other).map((name) => [name, name] as const)];
  return (
    <main>
      <h1 tabIndex={-1}>Two runs side by side</h1>
      <div class="filters">
        <Select label="First run" value={first} options={options(second)} onChange={(run) => go({ compare: [run, second] }, true)} />
        <Select label="Second run" value={second} options={options(first)} onChange={(run) => go({ compare: [first, run] }, true)} />
        <button type="button" disabled={!path} onClick={() => go({ compare: [second, first] }, true)}>
          Swap
        </button>
      </div>
      {!path && <p class="note">Choose the second run.</p>}
      {path && !data && <Missing problem={problem} isLoading={isLoading} what="the comparison" />}
      {path && data && <Compared data={data} />}
    </main>
  );
}

function Compared({ data }: { data: Comparison }) {
  const [one, other] = data.runs as [ComparedRun, ComparedRun];
  const facts: [string, (run: ComparedRun) => preact.ComponentChildren][] = [
    ["State", (run) => <Badge state={run.state} />],
    ["Data before", (run) => moment(run.cutoff)],
    ["Held-out records", (run) => count(run.eval_records)],
    ["Best candidate", (run) => <Picked pick={run.best} />],
    ["In production by it", (run) => <Picked pick={run.champion} />],
    ["Promotion", (run) => (run.decision ? <Badge state={run.decision} /> : "–")],
  ];
  return (
    <>
      <p class={data.same_eval_set ? "note" : "card waits"}>
        {data.same_eval_set
          ? "Both were measured on the same held-out records."
          : "They were measured on different held-out records: a difference may come from these."}
      </p>
      <Scroll label="The two runs">
        <table class="wide">
          <caption class="unseen">The two runs</caption>
          <thead>
            <tr>
              <td />
              {data.runs.map((run) => (
                <th scope="col" key={run.run_id}>
                  <PlaceLink place={to({ view: "run", run: run.run_id })}>{run.run_id}</PlaceLink>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {facts.map(([name, of]) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td>{of(one)}</td>
                <td>{of(other)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      <Section title="Candidates">
        <Candidates data={data} one={one} other={other} />
        <p class="faint">“beyond chance”: their 95 % intervals do not overlap.</p>
      </Section>
      <Section title="Learning curves">
        <Curves runs={[one, other]} />
      </Section>
    </>
  );
}

function Candidates({ data, one, other }: { data: Comparison; one: ComparedRun; other: ComparedRun }) {
  const grids = [one, other].map((run) => gridOf(run.rows));
  return (
    <Scroll label="Candidates of both runs">
      <table class="wide">
        <caption class="unseen">Score of each candidate in both runs</caption>
        <thead>
          <tr>
            <th scope="col">Candidate</th>
            <th scope="col">{one.run_id}</th>
            <th scope="col">{other.run_id}</th>
            <th scope="col" class="figure">
              Change
            </th>
            <th scope="col" />
          </tr>
        </thead>
        <tbody>
          {data.candidates.map((row) => (
            <tr key={keyOf(row)}>
              <th scope="row">{pickName(row)}</th>
              {grids.map((grid, index) => {
                const candidate = grid.at(row.student, row.size);
                return (
                  <td key={index} class="figure-left">
                    {candidate?.state === "scored" ? f1(candidate.score) : <Badge state={candidate?.state ?? "not planned"} />}{" "}
                    <span class="faint">{interval(candidate?.score_ci95)}</span>
                  </td>
                );
              })}
              <td class={`figure ${(row.change ?? 0) < 0 ? "is-worse" : "is-better"}`}>{difference(row.change)}</td>
              <td>{row.significant ? <span class="badge">beyond chance</span> : <span class="faint">within chance</span>}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function Curves({ runs }: { runs: [ComparedRun, ComparedRun] }) {
  const students = [...new Set(runs.flatMap((run) => run.rows.map((row) => row.student)))];
  const sizes = [...new Set(runs.flatMap((run) => run.rows.map((row) => row.size)))].sort((a, b) => a - b);
  const series: Series[] = runs.flatMap((run, index) =>
    students.map((student, look) => ({
      name: `${student}, ${index ? "second" : "first"} run`,
      look: look % 6,
      line: true,
      dash: index === 0 ? 1 : 0,
      points: run.rows.flatMap((row) =>
        row.student === student && row.score !== null
          ? [{ x: row.size, y: row.score, interval: row.score_ci95, text: `${run.run_id}, ${pickName(row)}: ${f1(row.score)}` }]
          : [],
      ),
    })),
  );
  return (
    <Chart
      title="Score by number of training records; dashed: the first run"
      x={{ label: "training records", kind: "log", ticks: sizes, read: count }}
      y={{ label: "score against the teacher", whole: [0, 1] }}
      series={series}
    />
  );
}
