/** Where the reader is, as the address holds it: a view can be shared by copying the address. */

export const TABS = ["results", "tradeoffs", "classes", "disagreements", "training", "review", "files"] as const;
export type Tab = (typeof TABS)[number];

export interface Place {
  view: "runs" | "run" | "compare" | "champion" | "production";
  /** The run that is shown. */
  run: string;
  tab: Tab;
  /** A candidate of the run, as `student@size`; empty: the best one. */
  candidate: string;
  /** The runs that are compared; the second one may be missing. */
  compare: readonly string[];
  /** Filters and page of the list of runs. */
  state: string;
  workload: string;
  /** As people are shown it; empty: all. */
  experiment: string;
  page: number;
  /** What the cost is, in the chart of quality against cost. */
  cost: string;
  /** Filters and page of the disagreements. */
  teacher: string;
  student: string;
  dpage: number;
  /** The champion whose history is shown, as `workload/client`; empty: the configured one. */
  of: string;
}

export const START: Place = {
  view: "runs",
  run: "",
  tab: "results",
  candidate: "",
  compare: [],
  state: "",
  workload: "",
  experiment: "",
  page: 1,
  cost: "parameters",
  teacher: "",
  student: "",
  dpage: 1,
  of: "",
};

/** Read a place from the query of an address; what it does not know or understand is as at the start. */
export function readPlace(search: string, runId?: string): Place {
  const query = new URLSearchParams(search);
  const text = (name: keyof Place) => query.get(name) ?? (START[name] as string);
  const compare = query.getAll("compare").filter(Boolean).slice(0, 2);
  const run = query.get("run") ?? runId ?? "";
  const asked = query.get("view");
  const view = compare.length ? "compare" : run ? "run" : asked === "champion" || asked === "production" ? asked : "runs";
  const tab = query.get("tab") as Tab | null;
  return {
    view,
    run,
    tab: tab && TABS.includes(tab) ? tab : START.tab,
    candidate: text("candidate"),
    compare,
    state: text("state"),
    workload: text("workload"),
    experiment: text("experiment"),
    page: positive(query.get("page")),
    cost: text("cost"),
    teacher: text("teacher"),
    student: text("student"),
    dpage: positive(query.get("dpage")),
    of: text("of"),
  };
}

/** Write a place as the query of an address, shortest form: without what is as at the start. */
export function writePlace(place: Place, runId?: string): string {
  const query = new URLSearchParams();
  if (place.view === "champion" || place.view === "production") query.set("view", place.view);
  for (const name of ["run", "tab", "candidate", "state", "workload", "experiment", "page", "cost", "teacher", "student", "dpage", "of"] as const) {
    const value = String(place[name]);
    if (value !== String(START[name]) && !(name === "run" && value === runId)) query.set(name, value);
  }
  for (const run of place.compare) query.append("compare", run);
  const text = query.toString();
  return text ? `?${text}` : "";
}

function positive(value: string | null): number {
  const number = Number(value);
  return Number.isInteger(number) && number > 0 ? number : 1;
}
