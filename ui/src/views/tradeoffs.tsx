/** Quality against what it costs: two charts with their Pareto fronts, and all figures of the candidates. */

import type { ComponentChildren } from "preact";

import type { RunDetail } from "../api";
import { Chart, type Series } from "../charts/chart";
import { PlaceLink, usePage } from "../context";
import { type CandidateRow, candidatesOf, keyOf } from "../logic/candidates";
import { type Maybe, count, duration, f1, inSentence, interval, isKnown, metricOf, milliseconds, parameters, price, short } from "../logic/format";
import { METRICS } from "../schema";
import { paretoFront } from "../logic/pareto";
import { Scroll, Section, Select, pickName } from "../parts";

interface Measure {
  name: string;
  of: (one: CandidateRow) => Maybe<number>;
  read: (value: Maybe<number>) => string;
}

const COSTS: Record<string, Measure> = {
  parameters: { name: "parameters to serve", of: (one) => one.parameters, read: parameters },
  training: { name: "seconds of training", of: (one) => one.train_seconds, read: duration },
  records: { name: "training records", of: (one) => one.size, read: count },
  money: { name: "money for a million answers", of: (one) => one.per_million, read: (value) => (isKnown(value) ? short(value) : "–") },
};
const LATENCIES: Record<string, Measure> = {
  p50: { name: "latency of an answer, median (ms)", of: (one) => one.latency_p50_ms, read: milliseconds },
};

export function TradeoffsTab({ run }: { run: RunDetail }) {
  const { place, go } = usePage();
  const candidates = candidatesOf(run).filter((one) => one.state === "scored");
  const cost = COSTS[place.cost] ?? (COSTS["parameters"] as Measure);
  const latency = LATENCIES["p50"] as Measure;
  if (!candidates.length) return <p class="note">No candidate is scored yet.</p>;
  const { short: quality } = metricOf(run.report);
  const name = `${quality.charAt(0).toUpperCase()}${quality.slice(1)}`;
  return (
    <>
      <div class="side-by-side">
        <Section
          title="Quality against cost"
          aside={
            <Select
              label="Cost"
              value={place.cost}
              options={Object.entries(COSTS)
                .filter(([value, { of }]) => value !== "money" || candidates.some((one) => isKnown(of(one))))
                .map(([value, { name }]) => [value, name] as const)}
              onChange={(value) => go({ cost: value }, true)}
            />
          }
        >
          <Tradeoff run={run} candidates={candidates} measure={cost} title={`${name} against ${cost.name}`} />
        </Section>
        <Section title="Quality against latency">
          <Tradeoff run={run} candidates={candidates} measure={latency} title={`${name} against the latency of an answer`} />
        </Section>
      </div>
      <Section title="All figures">
        <Figures run={run} candidates={candidates} cost={cost} latency={latency} />
      </Section>
    </>
  );
}

function frontOf(candidates: readonly CandidateRow[], measure: Measure) {
  return paretoFront(
    candidates.flatMap((one) => {
      const cost = measure.of(one);
      return isKnown(cost) && isKnown(one.score) ? [{ cost, quality: one.score, candidate: one }] : [];
    }),
  );
}

interface TradeoffProps {
  run: RunDetail;
  candidates: CandidateRow[];
  measure: Measure;
  title: string;
}

function Tradeoff({ run, candidates, measure, title }: TradeoffProps) {
  const { go } = usePage();
  const front = frontOf(candidates, measure);
  const onFront = new Set(front.map((one) => one.candidate));
  const known = candidates.filter((one) => isKnown(measure.of(one)));
  if (!known.length) return <p class="note">It is measured once the run is scored.</p>;
  const point = (one: CandidateRow) => {
    const value = measure.of(one) as number;
    const place = onFront.has(one) ? ", on the Pareto front" : "";
    const text = `${pickName(one)}: ${metricOf(run.report).short} ${f1(one.score)}, ${measure.read(value)}${place}`;
    return { x: value, y: one.score as number, interval: one.score_ci95, text, marked: onFront.has(one), id: keyOf(one) };
  };
  const students = [...new Set(candidates.map((one) => one.student))];
  const series: Series[] = students.map((student, look) => ({
    name: student,
    look: look % 6,
    points: known.filter((one) => one.student === student).map(point),
  }));
  const threshold = run.report?.decision.threshold;
  return (
    <>
      <Chart
        title={title}
        x={{ label: measure.name, kind: "log", read: measure.read }}
        y={{ label: inSentence(metricOf(run.report).title), whole: [0, 1] }}
        series={series}
        under={{ name: "Pareto front", look: 6, line: true, dash: 1, markers: false, points: front.map((one) => point(one.candidate)) }}
        references={isKnown(threshold) ? [{ y: threshold, label: `asked for: ${f1(threshold)}` }] : []}
        onPick={(candidate) => go({ tab: "classes", candidate })}
      />
      <p class="faint">
        Pareto front, ringed: nothing costs less and is as good. {front.map((one) => pickName(one.candidate)).join(", ")}.
      </p>
    </>
  );
}

function Figures({ run, candidates, cost, latency }: { run: RunDetail; candidates: CandidateRow[]; cost: Measure; latency: Measure }) {
  const { place } = usePage();
  const fronts = [cost, latency].map((measure) => new Set(frontOf(candidates, measure).map((one) => one.candidate)));
  const metric = metricOf(run.report);
  const others = Object.values(METRICS).filter(({ name }) => name !== metric.name && candidates.some((one) => isKnown(one.scores?.[name])));
  const currency = run.report?.cost?.currency ?? "USD";
  const teacher = run.report?.teacher.per_million;
  const columns: [string, (one: CandidateRow) => ComponentChildren][] = [
    [
      metric.name === "f1_weighted" ? "F1" : metric.title,
      (one) => (
        <>
          {f1(one.score)} <span class="faint sub">{interval(one.score_ci95)}</span>
        </>
      ),
    ],
    ...others.map(({ name, title }): [string, (one: CandidateRow) => string] => [title, (one) => f1(one.scores?.[name])]),
    ["Unparsable", (one) => count(one.unparsable)],
    ["Parameters", (one) => parameters(one.parameters)],
    ["Trained in", (one) => duration(one.train_seconds)],
    ["Records/s", (one) => (isKnown(one.records_per_second) ? short(one.records_per_second) : "–")],
    [
      "Latency p50",
      (one) => (
        <>
          {milliseconds(one.latency_p50_ms)} <span class="faint sub">p95 {milliseconds(one.latency_p95_ms)}</span>
        </>
      ),
    ],
    ["Answers/s", (one) => (isKnown(one.answers_per_second) ? short(one.answers_per_second) : "–")],
    ...(candidates.some((one) => isKnown(one.per_million))
      ? [["A million answers", (one) => price(one.per_million, currency)] as [string, (one: CandidateRow) => string]]
      : []),
  ];
  return (
    <>
      <Scroll label="All figures of the candidates">
        <table class="wide close">
          <caption class="unseen">Candidates with their quality, cost and latency</caption>
          <thead>
            <tr>
              <th scope="col">Candidate</th>
              {columns.map(([name]) => (
                <th scope="col" class="figure" key={name}>
                  {name}
                </th>
              ))}
              <th scope="col">On a front</th>
            </tr>
          </thead>
          <tbody>
            {candidates.map((one) => (
              <tr key={keyOf(one)}>
                <th scope="row">
                  <PlaceLink place={{ ...place, tab: "classes", candidate: keyOf(one) }}>{pickName(one)}</PlaceLink>
                </th>
                {columns.map(([name, read]) => (
                  <td class="figure" key={name}>
                    {read(one)}
                  </td>
                ))}
                <td>{[fronts[0]?.has(one) && "cost", fronts[1]?.has(one) && "latency"].filter(Boolean).join(", ")}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {isKnown(teacher) && <p class="faint">A million answers of the teacher cost {price(teacher, currency)}, by what this run asked.</p>}
    </>
  );
}
