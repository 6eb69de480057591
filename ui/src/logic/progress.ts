/** How far a run is, from its stages and jobs. */

import type { Job, RunDetail } from "../api";

export interface RunProgress {
  /** Of all stages and jobs, those of the jobs counted by their steps. */
  share: number;
  /** Until the last of the jobs that run now has ended; null: not known. */
  secondsLeft: number | null;
  /** What it does now, in words. */
  doing: string;
}

const ENDED = ["done", "failed", "skipped", "cancelled"];
// The review takes as long as people take: it is no part of the work.
const NO_WORK = ["review"];

export function progressOf(run: Pick<RunDetail, "stages" | "jobs">): RunProgress {
  const stages = run.stages.filter((stage) => !NO_WORK.includes(stage.name));
  const jobs = run.jobs.flatMap((one) => [one.customize, one.evaluate]).filter((job): job is Job => job !== null);
  const done = stages.filter((stage) => ENDED.includes(stage.state)).length + jobs.reduce((sum, job) => sum + shareOf(job), 0);
  const running = jobs.filter((job) => job.state === "running");
  const left = running.map((job) => job.seconds_left).filter((seconds): seconds is number => seconds !== null);
  const names = [
    ...run.stages.filter((stage) => stage.state === "running").map((stage) => stage.name),
    ...run.jobs.filter((one) => one.customize?.state === "running").map((one) => `training ${one.name}`),
    ...run.jobs.filter((one) => one.evaluate.state === "running").map((one) => `evaluating ${one.name}`),
  ];
  return {
    share: done / Math.max(1, stages.length + jobs.length),
    secondsLeft: left.length ? Math.max(...left) : null,
    doing: names.length > 3 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ") || "waiting for a place",
  };
}

function shareOf(job: Job): number {
  return ENDED.includes(job.state) ? 1 : job.progress;
}
