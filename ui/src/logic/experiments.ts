/** Experiments by their names and DAGs: config.yaml's is the DAG flywheel, experiments/NAME.yaml is flywheel_NAME. */

export const DAG = "flywheel";
const CONFIG = "config.yaml";
const BESIDE = /^(annotate(_.*)?|prune|serving|watch)$/;

/** Return an experiment's name as people are shown it. */
export function shownExperiment(name: string): string {
  return name || CONFIG;
}

/** Return the name that the API has for one that people are shown. */
export function experimentIn(shown: string): string {
  return shown === CONFIG ? "" : shown;
}

/** Return the experiment whose DAG that is; null: it is none's. */
export function experimentOf(dagId: string): string | null {
  if (dagId === DAG) return "";
  const name = dagId.startsWith(`${DAG}_`) ? dagId.slice(DAG.length + 1) : "";
  return name && !BESIDE.test(name) ? name : null;
}

/** Return the id that a run has over all experiments. */
export function runIdOf(airflowId: string, experiment: string): string {
  return experiment ? `${experiment}@${airflowId}` : airflowId;
}
