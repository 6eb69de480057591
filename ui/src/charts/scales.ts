/** Axes of the charts, on the scales of D3. */

import { extent, max, min } from "d3-array";
import { scaleLinear, scaleLog, scaleUtc } from "d3-scale";

import { count, day, short } from "../logic/format";

export type Kind = "linear" | "log" | "time";

export interface Axis {
  (value: number): number;
  ticks: { value: number; label: string }[];
}

const LABEL_WIDTH = 62;

/** Return a horizontal axis for values, from `from` to `to` pixels. `at` are the ticks, where they are given. */
export function axis(kind: Kind, values: readonly number[], from: number, to: number, at?: readonly number[]): Axis {
  const [low = 0, high = 1] = extent(values) as [number?, number?];
  const most = Math.max(2, Math.floor((to - from) / LABEL_WIDTH));
  if (kind === "time") {
    const spare = (high - low || 86_400_000) * 0.03;
    const scale = scaleUtc([low - spare, high + spare], [from, to]);
    const days = high - low > 2 * 86_400_000;
    const ticks = scale.ticks(Math.min(most, 8)).map((date) => ({
      value: date.getTime(),
      label: days ? day(date) : date.toISOString().slice(11, 16),
    }));
    return withTicks((value) => scale(value), thin(ticks, Math.max(2, Math.floor((to - from) / 86))));
  }
  if (kind === "log" && low > 0) {
    const spare = high / low > 1 ? Math.pow(high / low, 0.05) : 2;
    const scale = scaleLog([low / spare, high * spare], [from, to]);
    const decades = Math.log10(high / low);
    const digits = decades < 1.2 ? "12357" : decades < 3 ? "125" : "1";
    const chosen = at ?? scale.ticks().filter((value) => digits.includes(value.toExponential()[0] ?? ""));
    return withTicks((value) => scale(value), thin(chosen.map((value) => ({ value, label: compact(value) })), most));
  }
  const spare = (high - low || 1) * 0.03;
  const scale = scaleLinear([low - spare, high + spare], [from, to]);
  const chosen = at ?? scale.ticks(Math.min(most, 8)).filter((value) => value >= 0 || low < 0);
  return withTicks((value) => scale(value), thin(chosen.map((value) => ({ value, label: compact(value) })), most));
}

/** Return a vertical axis for values, from `bottom` to `top` pixels; `whole` is the range that it may not leave. */
export function verticalAxis(values: readonly number[], bottom: number, top: number, whole?: readonly [number, number]): Axis {
  let low = min(values) ?? 0;
  let high = max(values) ?? 1;
  const spare = (high - low || 0.1) * 0.06;
  low -= spare;
  high += spare;
  if (whole) [low, high] = [Math.max(low, whole[0]), Math.min(high, whole[1])];
  const scale = scaleLinear([low, high], [bottom, top]).nice(5);
  return withTicks(
    (value) => scale(value),
    scale.ticks(5).map((value) => ({ value, label: String(Number(value.toPrecision(6))) })),
  );
}

function withTicks(place: (value: number) => number, ticks: Axis["ticks"]): Axis {
  return Object.assign((value: number) => place(value), { ticks });
}

function thin<T>(ticks: T[], most: number): T[] {
  const every = Math.ceil(ticks.length / most);
  return every > 1 ? ticks.filter((_, index) => index % every === 0) : ticks;
}

function compact(value: number): string {
  if (value >= 1e9) return `${short(value / 1e9)} B`;
  if (value >= 1e6) return `${short(value / 1e6)} M`;
  if (value >= 1e4) return `${short(value / 1e3)} k`;
  return value >= 1000 ? count(value) : short(value);
}
