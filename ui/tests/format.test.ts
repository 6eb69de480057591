import { expect, test } from "vitest";

import * as format from "../src/logic/format";

test.each([
  [0.42, "0.4 s"],
  [9.96, "10 s"],
  [59.4, "59 s"],
  [59.6, "1 min 00 s"],
  [185, "3 min 05 s"],
  [3599.9, "1 h 00 min"],
  [7810, "2 h 10 min"],
  [null, "–"],
])("%s seconds read %s", (seconds, text) => expect(format.duration(seconds)).toBe(text));

test.each([
  [1_240_000_000, "1.24 B"],
  [310_000_000, "310 M"],
  [52_100, "52.1 k"],
  [undefined, "–"],
])("%s parameters read %s", (value, text) => expect(format.parameters(value)).toBe(text));

test.each([
  [0.0204, "+0.020"],
  [-0.1, "−0.100"],
  [-0.0001, "±0.000"],
  [null, "–"],
])("a difference of %s reads %s", (value, text) => expect(format.difference(value)).toBe(text));

test.each([
  [20833.33, "20,833 USD"],
  [0.0421, "0.0421 USD"],
  [null, "–"],
])("a price of %s reads %s", (value, text) => expect(format.price(value, "USD")).toBe(text));

test("zero is a figure, no value is none", () => {
  expect(format.f1(0)).toBe("0.000");
  expect(format.f1(null)).toBe("–");
  expect(format.interval(null)).toBe("");
});

test("a moment is told as unix seconds or ISO 8601", () => {
  expect(format.asDate(0)?.toISOString()).toBe("1970-01-01T00:00:00.000Z");
  expect(format.asDate("2026-03-01T02:00:00Z")?.getTime()).toBe(1772330400000);
  expect(format.asDate("no time at all")).toBeNull();
});
