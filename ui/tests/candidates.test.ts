import { expect, test } from "vitest";

import type { CandidatePart, StudentJobs } from "../src/api";
import { candidatesOf, chosen, gridOf, keyOf, ofKey } from "../src/logic/candidates";
import { progressOf } from "../src/logic/progress";

const job = (state: string, more = {}) => ({ state, progress: 0, seconds_left: null, error: null, ...more });
const jobs = (student: string, size: number | null, customize: string, evaluate: string, more = {}) =>
  ({
    kind: size === null ? "base" : "candidate",
    student,
    size,
    name: size === null ? student : `${student} @ ${size}`,
    state: evaluate,
    customize: size === null ? null : job(customize, more),
    evaluate: job(evaluate, evaluate === "done" ? { score: 0.5 } : {}),
  }) as unknown as StudentJobs;

test("a candidate's key leads back to it, also where the student's name has an @", () => {
  for (const one of [{ student: "1b", size: 5000 }, { student: "1b", size: null }, { student: "a@b", size: 3 }])
    expect(ofKey(keyOf(one))).toEqual(one);
});

test("the table has students in the order of the config and sizes rising", () => {
  const rows = [
    ["b", 300],
    ["b", 40],
    ["a", 40],
  ].map(([student, size]) => ({ student, size }) as CandidatePart);
  const grid = gridOf(rows);
  expect(grid.students).toEqual(["b", "a"]);
  expect(grid.sizes).toEqual([40, 300]);
  expect(grid.at("a", 300)).toBeUndefined();
  expect(grid.at("b", 40)).toBe(rows[1]);
});

test("the best candidate is looked into where none, or one without a result, is asked for", () => {
  const run = { jobs: [jobs("a", 5, "done", "done"), jobs("b", 5, "done", "done"), jobs("c", 5, "failed", "skipped")], best: { student: "b", size: 5, score: 1 } };
  expect(chosen(run, "")).toEqual({ student: "b", size: 5 });
  expect(chosen(run, "a@5")).toEqual({ student: "a", size: 5 });
  expect(chosen(run, "c@5")).toEqual({ student: "b", size: 5 });
  expect(chosen({ jobs: [], best: null }, "")).toBeNull();
});

test("before the report the table is made of the jobs", () => {
  const run = { report: null, jobs: [jobs("a", null, "", "done"), jobs("a", 5, "done", "done"), jobs("a", 9, "failed", "skipped")] };
  expect(candidatesOf(run).map((one) => [one.size, one.state, one.score])).toEqual([
    [5, "scored", 0.5],
    [9, "skipped" === run.jobs[2]?.state ? "unavailable" : "failed", null],
  ]);
});

test("progress counts jobs by their steps, and waits for the slowest that runs", () => {
  const stages = [{ name: "plan", state: "done" }, { name: "score", state: "waiting" }, { name: "review", state: "waiting" }];
  const run = {
    stages,
    jobs: [jobs("a", 5, "running", "waiting", { progress: 0.5, seconds_left: 7 }), jobs("a", 9, "running", "waiting", { progress: 0.5, seconds_left: 20 })],
  } as unknown as Parameters<typeof progressOf>[0];
  const { share, secondsLeft, doing } = progressOf(run);
  expect(share).toBeCloseTo(2 / 6);
  expect(secondsLeft).toBe(20);
  expect(doing).toBe("training a @ 5, training a @ 9");
});
