/** Figures as people read them. Numbers are grouped and rounded to what they carry. */

import type { MetricPart } from "../api";
import { METRICS } from "../schema";

const grouped = new Intl.NumberFormat("en");

/** What stands where there is no figure. */
export const NONE = "–";

export type Maybe<T> = T | null | undefined;
export type Interval = readonly [number, number];

export function isKnown<T>(value: Maybe<T>): value is T {
  return value !== null && value !== undefined && !Number.isNaN(value);
}

/** What a run's candidates are compared by; before it is scored, and of older runs, weighted F1. */
export function metricOf(report: Maybe<{ metric?: MetricPart }>): MetricPart {
  return report?.metric ?? METRICS.f1_weighted;
}

/** A metric's title inside a sentence, or at an axis. */
export function inSentence(title: string): string {
  return title.charAt(0).toLowerCase() + title.slice(1);
}

/** A score, three places. */
export function f1(value: Maybe<number>): string {
  return isKnown(value) ? value.toFixed(3) : NONE;
}

/** A 95 % interval of a score. */
export function interval(value: Maybe<Interval>): string {
  return isKnown(value) ? `${value[0].toFixed(3)} to ${value[1].toFixed(3)}` : "";
}

/** A sum of money. */
export function money(value: Maybe<number>, currency: string): string {
  return isKnown(value) ? `${value.toFixed(2)} ${currency}` : NONE;
}

/** A price, which may be less than a cent: three digits. */
export function price(value: Maybe<number>, currency: string): string {
  return isKnown(value) ? `${short(value)} ${currency}` : NONE;
}

/** A difference with its sign. */
export function difference(value: Maybe<number>): string {
  if (!isKnown(value)) return NONE;
  const rounded = Math.abs(value).toFixed(3);
  if (Number(rounded) === 0) return "±0.000";
  return `${value < 0 ? "−" : "+"}${rounded}`;
}

export function count(value: Maybe<number>): string {
  return isKnown(value) ? grouped.format(Math.round(value)) : NONE;
}

export function percent(value: Maybe<number>): string {
  return isKnown(value) ? `${Math.round(value * 100)} %` : NONE;
}

/** A probability in percent, two digits: 1.6 %, 0.05 %. */
export function chance(value: Maybe<number>): string {
  return isKnown(value) ? `${Number((100 * value).toPrecision(2))} %` : NONE;
}

/** Parameters of a model: 1.24 B, 310 M, 52 k. */
export function parameters(value: Maybe<number>): string {
  if (!isKnown(value)) return NONE;
  if (value >= 1e9) return `${short(value / 1e9)} B`;
  if (value >= 1e6) return `${short(value / 1e6)} M`;
  if (value >= 1e3) return `${short(value / 1e3)} k`;
  return String(value);
}

/** Three digits at most: 1.24, 12.4, 124. */
export function short(value: number): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 100) return grouped.format(Math.round(value));
  if (size >= 10) return String(Number(value.toFixed(1)));
  return String(Number(value.toPrecision(3)));
}

export function milliseconds(value: Maybe<number>): string {
  if (!isKnown(value)) return NONE;
  return value >= 1000 ? `${short(value / 1000)} s` : `${short(value)} ms`;
}

/** A span of time: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min. */
export function duration(seconds: Maybe<number>): string {
  if (!isKnown(seconds)) return NONE;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${pad(whole % 60)} s`;
  const allMinutes = Math.round(whole / 60);
  return `${Math.floor(allMinutes / 60)} h ${pad(allMinutes % 60)} min`;
}

/** A moment, in the reader's own time zone: 2026-03-01 02:00. */
export function moment(value: Maybe<string | number | Date>): string {
  const date = asDate(value);
  if (!date) return NONE;
  return `${day(date)} ${pad(date.getHours())}:${pad(date.getMinutes())}`;
}

/** The day of a moment, in the reader's own time zone. */
export function day(value: Maybe<string | number | Date>): string {
  const date = asDate(value);
  if (!date) return NONE;
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
}

/** A moment as the API tells it: ISO 8601, or unix seconds. */
export function asDate(value: Maybe<string | number | Date>): Date | null {
  if (!isKnown(value)) return null;
  const date = value instanceof Date ? value : new Date(typeof value === "number" ? value * 1000 : value);
  return Number.isNaN(date.getTime()) ? null : date;
}

function pad(value: number): string {
  return String(value).padStart(2, "0");
}
