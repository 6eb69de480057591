import { expect, test } from "vitest";

import { type Place, START, readPlace, writePlace } from "../src/logic/place";

test("the start has no query", () => {
  expect(writePlace(START)).toBe("");
  expect(readPlace("")).toEqual(START);
});

test("a place comes back from its address", () => {
  const place: Place = {
    ...START,
    view: "run",
    run: "manual__2026-03-01T02:00:00+00:00",
    tab: "disagreements",
    candidate: "1b@5000",
    teacher: "Mergers and Acquisitions",
    student: "no class",
    dpage: 3,
  };
  expect(readPlace(writePlace(place))).toEqual(place);
});

test("two runs that are compared come back in their order", () => {
  const place: Place = { ...START, view: "compare", compare: ["b & a", "night+1"] };
  expect(readPlace(writePlace(place))).toEqual(place);
});

test("on the page of a run its id is not said again", () => {
  const place: Place = { ...START, view: "run", run: "night-1", tab: "classes" };
  expect(writePlace(place, "night-1")).toBe("?tab=classes");
  expect(readPlace("?tab=classes", "night-1")).toEqual(place);
});

test("nonsense is as at the start", () => {
  expect(readPlace("?tab=nothing&page=-3&dpage=x&view=?")).toEqual(START);
});

test("production is a view of its own", () => {
  const place: Place = { ...START, view: "production", of: "news/desk" };
  expect(writePlace(place)).toBe("?view=production&of=news%2Fdesk");
  expect(readPlace(writePlace(place))).toEqual(place);
});
