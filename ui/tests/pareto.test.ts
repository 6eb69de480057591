import { expect, test } from "vitest";

import { paretoFront } from "../src/logic/pareto";

const option = (cost: number, quality: number) => ({ cost, quality });

test("what is dearer and no better is not on the front", () => {
  const front = paretoFront([option(3, 0.9), option(1, 0.5), option(2, 0.4), option(2, 0.7), option(4, 0.9)]);
  expect(front).toEqual([option(1, 0.5), option(2, 0.7), option(3, 0.9)]);
});

test("of two that cost the same, the better one is on the front", () => {
  expect(paretoFront([option(1, 0.5), option(1, 0.6)])).toEqual([option(1, 0.6)]);
});

test("equals are both on the front", () => {
  expect(paretoFront([option(1, 0.5), option(1, 0.5), option(2, 0.5)])).toHaveLength(2);
});

test("nothing beats any point of the front, and something beats every other point", () => {
  const options = Array.from({ length: 300 }, (_, n) => option((n * 7919) % 97, ((n * 104729) % 89) / 89));
  const front = new Set(paretoFront(options));
  const beats = (a: typeof options[0], b: typeof options[0]) =>
    a.cost <= b.cost && a.quality >= b.quality && (a.cost < b.cost || a.quality > b.quality);
  for (const one of options) expect(options.some((other) => beats(other, one))).toBe(!front.has(one));
});

test("the front of nothing is empty", () => {
  expect(paretoFront([])).toEqual([]);
});
