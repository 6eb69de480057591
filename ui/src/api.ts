/** The orchestrator API, as far as the page uses it: its answers (docs/api.md) and how it is asked. */

import type { Interval } from "./logic/format";

export type RunState = "queued" | "running" | "review" | "success" | "failed" | "cancelled";
export type JobState = "waiting" | "queued" | "running" | "retrying" | "done" | "failed" | "skipped" | "cancelled";

/** What candidates are compared by. */
export interface Metric {
  name: string;
  title: string;
  short: string;
}

export interface Pick {
  student: string;
  size: number;
  score: number | null;
}

export interface RunLine {
  run_id: string;
  state: RunState;
  run_type: string;
  workload_id: string;
  client_id: string;
  cutoff: number | null;
  started_at: string;
  ended_at: string | null;
  champion: Pick | null;
  best: Pick | null;
  decision: string | null;
  scored: number;
  candidates: number;
}

export interface RunLines {
  runs: RunLine[];
  total: number;
}

export interface Candidate {
  student: string;
  size: number;
  state: "scored" | "failed" | "unavailable" | "missing";
  reason: string;
  parameters: number | null;
  score: number | null;
  score_ci95: Interval | null;
  /** What the score is at least, but for a chance of `test_rate`: the bound of its test. */
  score_low?: number | null;
  test_rate?: number | null;
  test_place?: number | null;
  passes?: boolean | null;
  eval_records?: number | null;
  scores: Record<string, number>;
  unparsable: number | null;
  train_seconds: number | null;
  records_per_second: number | null;
  answers_per_second: number | null;
  latency_p50_ms: number | null;
  latency_p95_ms: number | null;
  adapter: string | null;
  found: boolean;
}

export interface Base {
  student: string;
  state: string;
  reason: string;
  score: number | null;
  score_ci95: Interval | null;
  icl_score: number | null;
  icl_score_ci95: Interval | null;
  icl_examples: number | null;
}

/** A share of production's requests, with its interval, and the level that it must not fall below. */
export interface Watched {
  value: number | null;
  low: number;
  high: number;
  of: number;
  level: number | null;
  evidence: number;
  alarm: boolean;
}

export interface Night {
  since: number;
  at: number;
  champion: string;
  adapter: string;
  requests: number;
  by_student: number;
  by_teacher: number;
  unsure: number;
  agreement: Watched;
  agreement_since: Watched;
  answered: Watched;
  confidence: number | null;
  confidence_eval: number | null;
  classes: Record<string, number>;
  classes_eval: Record<string, number>;
  moved: number | null;
  asked: number;
  left: number;
  cost: number;
  saved: number | null;
  currency: string;
  p50: number | null;
  p95: number | null;
  alarms: string[];
  remarks: string[];
}

export interface Nights {
  workload_id: string;
  client_id: string;
  log: "all" | "labels_only" | "none";
  audit: number;
  cascade: { target: number; threshold: number | null; share: number; reason: string } | null;
  nights: Night[];
  total: number;
}

export interface ChampionPart extends Pick {
  reason: string;
  run_id: string | null;
  promoted_at: string | null;
}

export interface Report {
  created_at: string;
  workload_type: string;
  metric: Metric;
  teacher: { model: string; human_scores: Record<string, number>; human_records: number | null };
  base: Base[];
  candidates: Candidate[];
  baseline: { size: number; score: number }[];
  best: Pick | null;
  champion: ChampionPart | null;
  production: ChampionPart | null;
  decision: {
    state: string;
    threshold: number | null;
    choice: ChampionPart | null;
    /** What was tested and how sure it is, in words; reports of before have none. */
    test?: string[];
    /** Why nothing is promoted without a person. */
    doubts?: string[];
    reason: string;
    outcome: string;
    comment: string;
  };
  verdict: string[];
  warnings: string[];
  data: {
    labelled: number | null;
    used: number | null;
    train: number | null;
    validation: number | null;
    eval: number | null;
    calibration?: number | null;
    split?: "temporal" | "random" | null;
    events?: number | null;
    left_out?: number | null;
    /** When the first and the last record of each part was known, in unix seconds. */
    known?: Record<string, [number, number]>;
    near_duplicates: number | null;
    exact_duplicates: number | null;
    quarantined: Record<string, number>;
  };
  stages: Record<string, number>;
}

export interface Loss {
  step: number;
  loss: number;
  val_loss: number | null;
}

export interface Job {
  state: JobState;
  progress: number;
  seconds_left: number | null;
  step: number | null;
  steps: number | null;
  records_per_second: number | null;
  started_at: string | null;
  ended_at: string | null;
  found: boolean;
  error: string | null;
  task: { url: string; state: string; try_number: number } | null;
  losses?: Loss[];
  score?: number | null;
  score_ci95?: Interval | null;
}

export interface StudentJobs {
  kind: "candidate" | "base" | "champion";
  student: string;
  size: number | null;
  name: string;
  state: JobState;
  customize: Job | null;
  evaluate: Job;
}

export interface Stage {
  name: string;
  state: JobState;
  started_at: string | null;
  ended_at: string | null;
  task: { url: string } | null;
}

export interface Review {
  state: "waiting" | "approved" | "rejected" | "ended";
  subject: string;
  asked_at: string;
  answered_at: string | null;
  answered_by: string | null;
  comment: string;
}

export interface Run extends RunLine {
  approval: string | null;
  stages: Stage[];
  jobs: StudentJobs[];
  review: Review | null;
  report: Report | null;
  links: {
    airflow: string;
    artifacts: string;
    report: string | null;
    mlflow: { uri: string; experiment: string; run_id: string; url: string | null } | null;
  };
  error: string | null;
}

export interface Confusion {
  records: number;
  scores: Record<string, number>;
  labels: string[];
  columns: string[];
  matrix: number[][];
  per_class: { label: string; precision: number; recall: number; f1: number; support: number }[];
}

export interface Disagreements {
  disagreements: { id: string; text: string; teacher: string; student: string; answer: string }[];
  total: number;
  records: number;
  by_label: Record<string, number>;
}

export interface Champion {
  workload_id: string;
  client_id: string;
  student: string;
  size: number;
  parameters: number | null;
  metric: string;
  score: number;
  score_ci95: Interval | null;
  run_id: string;
  cutoff: number;
  promoted_at: string;
  reason: string;
  comment: string;
  registry: { model: string; version: string } | null;
}

export interface History {
  workload_id: string;
  client_id: string;
  champions: Champion[];
  total: number;
  /** What a rollback would put back. */
  before: Champion | null;
}

/** What a night or a person decided; `at`: its cutoff, or the time of it, in unix seconds. */
export interface Entry {
  at: number;
  kind: "night" | "backfill" | "person";
  run_id: string;
  decision: string;
  reason: string;
  candidate: string | null;
  /** In production after it; null: the teacher. */
  champion: Champion | null;
  /** Compared with the champion that stands before it in the timeline. */
  in_line: boolean;
  by: string;
}

export interface Entries {
  entries: Entry[];
  total: number;
}

/** What a person said of a candidate that was turned down. */
export interface Word {
  by: string;
  at: string;
  why: "rolled back" | "rejected";
  comment: string;
  adapter: string;
}

/** A person's word that holds automatic promotions back; `turned_down`: what stays so though its hold has ended. */
export interface Held {
  hold: Word | null;
  turned_down?: Word[];
}

export interface Promoted {
  champion: Champion;
  warnings: string[];
}

/** The user, and what Airflow lets that user do. */
export interface Me {
  name: string;
  may: { read: boolean; trigger: boolean; review: boolean; promote: boolean };
}

export interface CandidateLines {
  candidates: { student: string; size: number; score: number | null }[];
  total: number;
}

export interface ComparedRun extends RunLine {
  created_at: string;
  dataset: string | null;
  eval_records: number | null;
  rows: Candidate[];
}

export interface Comparison {
  runs: ComparedRun[];
  same_eval_set: boolean;
  candidates: { student: string; size: number; score: (number | null)[]; change: number | null; significant: boolean }[];
}

/** An answer of the API that is not what was asked for (RFC 9457), or none at all. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }

  static of(error: unknown): Problem {
    if (error instanceof Problem) return error;
    return new Problem(0, "Airflow's API server does not answer.");
  }
}

/** Return the address of a path of the API, wherever Airflow is mounted. */
export function apiUrl(path: string): string {
  return new URL(`flywheel/api/${path}`, document.baseURI).href;
}

/** Return the address of a path of Airflow's UI, as links of the API tell it. */
export function hostUrl(path: string): string {
  return new URL(path.replace(/^\/+/, ""), document.baseURI).href;
}

/** Return the address of Airflow's login, which leads back here. */
export function loginUrl(): string {
  return hostUrl(`api/v2/auth/login?next=${encodeURIComponent(location.href)}`);
}

export async function get<T>(path: string, signal: AbortSignal): Promise<T> {
  return answer<T>(await fetch(apiUrl(path), { signal, headers: { Accept: "application/json" } }));
}

export async function post<T>(path: string, body: unknown): Promise<T> {
  const headers = { "Content-Type": "application/json", Accept: "application/json" };
  return answer<T>(await fetch(apiUrl(path), { method: "POST", headers, body: JSON.stringify(body) }));
}

export async function remove<T>(path: string): Promise<T> {
  return answer<T>(await fetch(apiUrl(path), { method: "DELETE", headers: { Accept: "application/json" } }));
}

async function answer<T>(response: Response): Promise<T> {
  if (response.ok) return (await response.json()) as T;
  let detail = "";
  try {
    const problem = (await response.json()) as { detail?: unknown };
    if (typeof problem.detail === "string") detail = problem.detail;
  } catch {
    // Not from the API, but from something before it: its status says enough.
  }
  if (response.status === 401) detail = "Your session has ended: log in again.";
  throw new Problem(response.status, detail || `The server answers with status ${response.status}.`);
}

/** Return a path with a query, without what is empty. */
export function query(path: string, values: Record<string, string | number | null | undefined>): string {
  const parts = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return parts.length ? `${path}?${new URLSearchParams(parts.map(([name, value]) => [name, String(value)]))}` : path;
}

export function runPath(run: string, part = ""): string {
  return `runs/${encodeURIComponent(run)}${part}`;
}
