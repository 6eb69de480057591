/** Table 1 of a run, students x sizes, and its learning curve; cells fill while the run goes on. */

import type { BasePart, RunDetail, StudentJobs } from "../api";
import { Chart, type Series } from "../charts/chart";
import { PlaceLink, usePage } from "../context";
import { type CandidateRow, candidatesOf, gridOf, keyOf } from "../logic/candidates";
import { chance, count, duration, f1, inSentence, interval, isKnown, metricOf, percent } from "../logic/format";
import { Facts, Section, Scroll, pickName } from "../parts";
import { RunCost } from "./costs";
import { Tested } from "./tested";

export function ResultsTab({ run }: { run: RunDetail }) {
  const candidates = candidatesOf(run);
  if (!candidates.length) return <p class="note">The run has no candidates yet: they are known once it is planned.</p>;
  const metric = metricOf(run.report);
  const isClasses = (run.report?.workload_type ?? "classification") === "classification";
  return (
    <>
      {run.report && <Verdict run={run} />}
      <Section title={`${metric.short.charAt(0).toUpperCase()}${metric.short.slice(1)} against the teacher`}>
        <ResultTable run={run} candidates={candidates} />
        <p class="faint">
          {metric.title} on the held-out {isClasses ? "headlines" : "records"}, with its 95 % interval; the teacher has 1.000 by
          definition. ★ the run's choice, ▲ the best, ✓ shown to be good enough: the bound of its test reaches what is asked for.
        </p>
      </Section>
      <Section title="Learning curve">
        <LearningCurve run={run} candidates={candidates} />
      </Section>
      <Tested run={run} />
      {run.report && <Data run={run} />}
    </>
  );
}

function Verdict({ run }: { run: RunDetail }) {
  const report = run.report;
  if (!report) return null;
  return (
    <section class="verdict" aria-label="Verdict">
      {report.verdict.map((sentence) => (
        <p key={sentence}>{sentence}</p>
      ))}
      {report.warnings.map((warning) => (
        <p key={warning} class="warning">
          {warning}
        </p>
      ))}
      {report.cost && <RunCost cost={report.cost} />}
    </section>
  );
}

function ResultTable({ run, candidates }: { run: RunDetail; candidates: CandidateRow[] }) {
  const grid = gridOf(candidates);
  const metric = metricOf(run.report);
  const baseline = run.report?.baseline ?? [];
  const jobs = new Map(run.jobs.map((one) => [`${one.kind} ${keyOf(one)}`, one]));
  return (
    <Scroll label={`${metric.short.charAt(0).toUpperCase()}${metric.short.slice(1)} of each student and size`}>
      <table class="grid stacks">
        <caption class="unseen">{metric.title} by student and number of training records</caption>
        <thead>
          <tr>
            <th scope="col">Student</th>
            <th scope="col">untrained</th>
            {grid.sizes.map((size) => (
              <th scope="col" key={size}>
                {count(size)} <span class="faint">records</span>
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {grid.students.map((student) => (
            <tr key={student}>
              <th scope="row">{student}</th>
              <BaseCell base={run.report?.base.find((one) => one.student === student)} job={jobs.get(`base ${student}`)} />
              {grid.sizes.map((size) => (
                <Cell
                  key={size}
                  run={run}
                  size={size}
                  candidate={grid.at(student, size)}
                  job={jobs.get(`candidate ${keyOf({ student, size })}`)}
                />
              ))}
            </tr>
          ))}
          {baseline.length > 0 && (
            <tr class="baseline">
              <th scope="row">
                no language model <span class="faint sub">TF-IDF, logistic regression</span>
              </th>
              <td class="roomy" />
              {grid.sizes.map((size) => (
                <td key={size} data-label={`${count(size)} records`}>
                  <span class="value">{f1(baseline.find((one) => one.size === size)?.score)}</span>
                </td>
              ))}
            </tr>
          )}
        </tbody>
      </table>
    </Scroll>
  );
}

function BaseCell({ base, job }: { base: BasePart | undefined; job: StudentJobs | undefined }) {
  const value = base?.score ?? job?.evaluate.score;
  if (!isKnown(value)) return <td data-label="untrained">{job ? <JobCell job={job} /> : <span class="faint">{base?.state ?? "–"}</span>}</td>;
  return (
    <td data-label="untrained">
      <span class="value">{f1(value)}</span>
      <span class="faint sub">{interval(base?.score_ci95 ?? job?.evaluate.score_ci95)}</span>
      {isKnown(base?.icl_score) && (
        <span class="faint sub" title={interval(base?.icl_score_ci95)}>
          with examples {f1(base?.icl_score)}
        </span>
      )}
    </td>
  );
}

interface CellProps {
  run: RunDetail;
  size: number;
  candidate: CandidateRow | undefined;
  job: StudentJobs | undefined;
}

function Cell({ run, size, candidate, job }: CellProps) {
  const { place } = usePage();
  const label = `${count(size)} records`;
  if (!candidate)
    return (
      <td class="faint" data-label={label}>
        –
      </td>
    );
  if (candidate.state !== "scored") {
    if (!run.report && job) return <td data-label={label}>{candidate.state === "failed" ? <Unscored candidate={candidate} /> : <JobCell job={job} />}</td>;
    return (
      <td data-label={label}>
        <Unscored candidate={candidate} />
      </td>
    );
  }
  const isChoice = isSame(run.report?.decision.choice, candidate);
  const isBest = isSame(run.best, candidate);
  return (
    <td data-label={label} style={{ "--share": percent(candidate.score).replace(" ", "") }} class={`scored ${isChoice ? "is-choice" : ""}`}>
      <PlaceLink
        place={{ ...place, tab: "classes", candidate: keyOf(candidate) }}
        label={`${pickName(candidate)}: ${metricOf(run.report).short} ${f1(candidate.score)}${isChoice ? ", the run's choice" : ""}${isBest ? ", the best" : ""}; show its classes`}
      >
        <span class="value">{f1(candidate.score)}</span>
        {isChoice && <span class="star"> ★</span>}
        {isBest && <span class="star"> ▲</span>}
      </PlaceLink>
      <span class="faint sub">{interval(candidate.score_ci95)}</span>
      {isKnown(candidate.score_low) && isKnown(candidate.passes) && (
        <span class="faint sub" title={`the bound of its test, but for a chance of ${chance(candidate.test_rate)}`}>
          at least {f1(candidate.score_low)}
          {candidate.passes ? " ✓" : ""}
        </span>
      )}
    </td>
  );
}

function Unscored({ candidate }: { candidate: CandidateRow }) {
  return (
    <details class="unscored">
      <summary class={`badge is-${candidate.state}`}>{candidate.state}</summary>
      <p>{candidate.reason || "There is no result of it."}</p>
    </details>
  );
}

function JobCell({ job }: { job: StudentJobs }) {
  const running = [job.customize, job.evaluate].find((one) => one?.state === "running");
  if (!running) return <span class={`badge is-${job.state}`}>{job.state}</span>;
  const what = running === job.customize ? "training" : "evaluating";
  return (
    <span class="job">
      {what} {percent(running.progress)}
      <span class="faint sub">{isKnown(running.seconds_left) ? `${duration(running.seconds_left)} left` : ""}</span>
    </span>
  );
}

function LearningCurve({ run, candidates }: { run: RunDetail; candidates: CandidateRow[] }) {
  const { place, go } = usePage();
  const grid = gridOf(candidates);
  const metric = metricOf(run.report);
  const series: Series[] = grid.students.map((student, look) => ({
    name: student,
    look: look % 6,
    line: true,
    points: grid.sizes.flatMap((size) => {
      const one = grid.at(student, size);
      if (one?.state !== "scored" || one.score === null) return [];
      const text = `${pickName(one)}: ${metric.short} ${f1(one.score)} (${interval(one.score_ci95)})`;
      return [{ x: size, y: one.score, interval: one.score_ci95, text, id: keyOf(one), marked: isSame(run.report?.decision.choice, one) }];
    }),
  }));
  series.push({
    name: "no language model",
    look: 6,
    line: true,
    dash: 1,
    points: (run.report?.baseline ?? []).map((one) => ({
      x: one.size,
      y: one.score,
      text: `no language model, ${count(one.size)} records: F1 ${f1(one.score)}`,
    })),
  });
  if (!series.some((one) => one.points.length)) return <p class="note">The curve begins with the first candidate that is scored.</p>;
  const threshold = run.report?.decision.threshold;
  return (
    <Chart
      title={`${metric.short.charAt(0).toUpperCase()}${metric.short.slice(1)} by number of training records`}
      x={{ label: "training records", kind: "log", ticks: grid.sizes, read: count }}
      y={{ label: inSentence(metric.title), whole: [0, 1] }}
      series={series}
      references={isKnown(threshold) ? [{ y: threshold, label: `asked for: ${f1(threshold)}` }] : []}
      onPick={(candidate) => go({ ...place, tab: "classes", candidate })}
    />
  );
}

function Data({ run }: { run: RunDetail }) {
  const data = run.report?.data;
  const teacher = run.report?.teacher;
  if (!data || !teacher) return null;
  const quarantined = Object.values(data.quarantined).reduce((sum, one) => sum + one, 0);
  const facts: [string, string][] = [
    ["Teacher", teacher.model],
    ["Teacher against people", isKnown(teacher.human_scores.f1_weighted) ? `F1 ${f1(teacher.human_scores.f1_weighted)} on ${count(teacher.human_records)}` : "no human labels"],
    ["Records used", count(data.used)],
    ["Split", data.split ?? "–"],
    ["Training", during(data.train, data.known?.train)],
    ["Validation", count(data.validation)],
    ["Calibration", count(data.calibration)],
    ["Held out", during(data.eval, data.known?.eval)],
    ["Left out", count(data.left_out)],
    ["Events", count(data.events)],
    ["Duplicates", `${count(data.exact_duplicates)} exact, ${count(data.near_duplicates)} near`],
    ["Quarantined", count(quarantined)],
  ];
  return (
    <Section title="Data">
      <Facts facts={facts} />
    </Section>
  );
}

/** A number of records, and the days on which they were known. */
function during(records: number | null, known: [number, number] | undefined): string {
  if (!known) return count(records);
  const [first, last] = known.map((second) => new Date(1000 * second).toISOString().slice(0, 10));
  return `${count(records)}, ${first === last ? first : `${first} to ${last}`}`;
}

function isSame(one: { student: string; size: number } | null | undefined, other: CandidateRow): boolean {
  return one?.student === other.student && one.size === other.size;
}
