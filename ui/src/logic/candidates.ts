/** The candidates of a run: which is meant, and how they stand in the table of students and sizes. */

import type { CandidatePart, RunDetail, StudentJobs } from "../api";

export interface Named {
  student: string;
  size: number | null;
}

/** Return a candidate's name in addresses: `student@size`, or `student` before training. */
export function keyOf({ student, size }: Named): string {
  return size === null ? student : `${student}@${size}`;
}

/** Return the candidate that an address names. */
export function ofKey(key: string): Named {
  const at = key.lastIndexOf("@");
  const size = Number(key.slice(at + 1));
  return at > 0 && Number.isInteger(size) && size > 0 ? { student: key.slice(0, at), size } : { student: key, size: null };
}

/** Return what of a run has a result to look into: candidates first, as in the table, then the bare students. */
export function evaluated(run: Pick<RunDetail, "jobs">): Named[] {
  const done = (kind: StudentJobs["kind"]) => run.jobs.filter((one) => one.kind === kind && one.evaluate.state === "done");
  return [...done("candidate"), ...done("base")].map(({ student, size }) => ({ student, size }));
}

/** Return the candidate that is asked for, else the best one, else any that has a result; null: none has. */
export function chosen(run: Pick<RunDetail, "jobs" | "best">, key: string): Named | null {
  const all = evaluated(run);
  const best = run.best && keyOf(run.best);
  return all.find((one) => keyOf(one) === key) ?? all.find((one) => keyOf(one) === best) ?? all[0] ?? null;
}

/** A candidate in the page's tables: as its report has it, or as far as its jobs tell while the run goes on. */
export type CandidateRow = Partial<CandidatePart> &
  Pick<CandidatePart, "student" | "size" | "state" | "reason" | "score" | "score_ci95" | "scores" | "adapter" | "found">;

export interface Grid {
  students: string[];
  sizes: number[];
  at: (student: string, size: number) => CandidateRow | undefined;
}

/** Lay candidates out as the table: students in the order of the config, sizes rising. */
export function gridOf(candidates: readonly CandidateRow[]): Grid {
  const byKey = new Map(candidates.map((one) => [keyOf(one), one]));
  return {
    students: [...new Set(candidates.map((one) => one.student))],
    sizes: [...new Set(candidates.map((one) => one.size))].sort((a, b) => a - b),
    at: (student, size) => byKey.get(keyOf({ student, size })),
  };
}

/** Return a run's candidates: of its report, else of its jobs, as far as they are known while it goes on. */
export function candidatesOf(run: Pick<RunDetail, "jobs" | "report">): CandidateRow[] {
  if (run.report) return run.report.candidates;
  return run.jobs.flatMap((one) => (one.kind === "candidate" && one.size !== null ? [unreported(one, one.size)] : []));
}

function unreported(one: StudentJobs, size: number): CandidateRow {
  const isScored = one.evaluate.state === "done" && typeof one.evaluate.score === "number";
  return {
    student: one.student,
    size,
    state: isScored ? "scored" : one.state === "failed" ? "failed" : one.state === "skipped" ? "unavailable" : "missing",
    reason: one.customize?.error ?? one.evaluate.error ?? "",
    parameters: null,
    score: one.evaluate.score ?? null,
    scores: {},
    score_ci95: one.evaluate.score_ci95 ?? null,
    unparsable: null,
    train_seconds: null,
    records_per_second: one.customize?.records_per_second ?? null,
    answers_per_second: one.evaluate.records_per_second,
    latency_p50_ms: null,
    latency_p95_ms: null,
    adapter: null,
    found: one.customize?.found ?? false,
  };
}
