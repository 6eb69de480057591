/** The orchestrator API, as far as the page uses it (docs/api.md): the types of its answers, and how it is asked. */

import type { Customize, Evaluate, RunLine } from "./schema";

export type {
  Artifacts, BackfillForecast, BackfillNight, BackfillStatus, BasePart, CandidateLines, CandidatePart, Champion, ComparedRun, Comparison, ConfusionMatrix, CostPart, Costs, DataPart, Disagreements, Entries,
  ExperimentLine, ExperimentLines, Held, History, Hold, InForce, Me, MetricPart, Night, Nights, Payback, Pick, Placed, Promoted, RunDetail, RunLine, RunLines, Stopped, Stretches, StudentJobs, Watched,
} from "./schema";

export type Job = Customize | Evaluate;
export type JobState = Job["state"];
export type RunState = RunLine["state"];

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
