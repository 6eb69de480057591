import { expect, test } from "vitest";

import { axis, verticalAxis } from "../src/charts/scales";

test("given ticks are kept, as far as there is room for them", () => {
  expect(axis("log", [300, 1000, 2500], 0, 600, [300, 1000, 2500]).ticks.map((tick) => tick.label)).toEqual(["300", "1,000", "2,500"]);
  expect(axis("log", [300, 1000, 2500], 0, 100, [300, 1000, 2500]).ticks).toHaveLength(2);
});

test("a range of less than a decade has more than one tick", () => {
  expect(axis("log", [1.24e9, 3.21e9, 8.03e9], 0, 600).ticks.map((tick) => tick.label)).toEqual(["2 B", "3 B", "5 B", "7 B"]);
});

test.each(["linear", "log", "time"] as const)("one value alone lies within a %s axis", (kind) => {
  const place = axis(kind, [1_700_000_000_000], 10, 110)(1_700_000_000_000);
  expect(place).toBeGreaterThanOrEqual(10);
  expect(place).toBeLessThanOrEqual(110);
});

test("values rise to the right and up", () => {
  const across = axis("log", [1, 100], 50, 250);
  const up = verticalAxis([0.2, 0.9], 200, 10, [0, 1]);
  expect(across(1)).toBeLessThan(across(100));
  expect(up(0.2)).toBeGreaterThan(up(0.9));
});

test("F1 never leaves 0 to 1", () => {
  const ticks = verticalAxis([0.01, 0.99], 200, 10, [0, 1]).ticks.map((tick) => tick.value);
  expect(Math.min(...ticks)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...ticks)).toBeLessThanOrEqual(1);
});
