/** Small parts that several views are made of. */

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";

import { type JobState, type Pick, type Problem, type RunState, loginUrl } from "./api";
import { count, f1, percent } from "./logic/format";

const WORDS: Record<string, string> = { review: "waits for review", "in place": "in place already", kept: "in place already" };

/** A state, told by a word and a colour. */
export function Badge({ state }: { state: RunState | JobState | string }) {
  return <span class={`badge is-${state.replaceAll(" ", "-")}`}>{WORDS[state] ?? state}</span>;
}

export function pickName(pick: { student: string; size: number | null }): string {
  return pick.size === null ? pick.student : `${pick.student} @ ${pick.size}`;
}

export function Picked({ pick }: { pick: Pick | null }) {
  if (!pick) return <span class="faint">–</span>;
  return (
    <>
      {pickName(pick)} <span class="figure strong">{f1(pick.score)}</span>
    </>
  );
}

export function Bar({ value, label }: { value: number; label: string }) {
  return (
    <div class="bar" role="progressbar" aria-label={label} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(value * 100)}>
      <div style={{ width: percent(value).replace(" ", "") }} />
    </div>
  );
}

/** What was wrong with what was asked of the API. */
export function Told({ problem }: { problem: Problem }) {
  return (
    <p class="problem" role="alert">
      {problem.message}
    </p>
  );
}

/** What stands in the place of an answer that is not there. */
export function Missing({ problem, isLoading, what }: { problem: Problem | null; isLoading: boolean; what: string }) {
  if (problem)
    return (
      <p class="problem" role="alert">
        {problem.message} {problem.status === 401 && <a href={loginUrl()}>Log in</a>}
      </p>
    );
  return isLoading ? (
    <p class="faint" role="status">
      Loading {what} …
    </p>
  ) : null;
}

interface PagerProps {
  page: number;
  size: number;
  total: number;
  what: string;
  onPage: (page: number) => void;
}

export function Pager({ page, size, total, what, onPage }: PagerProps) {
  const last = Math.max(1, Math.ceil(total / size));
  const first = (page - 1) * size + 1;
  return (
    <nav class="pager" aria-label={`Pages of ${what}`}>
      <button type="button" disabled={page <= 1} onClick={() => onPage(1)} aria-label="First page">
        «
      </button>
      <button type="button" disabled={page <= 1} onClick={() => onPage(page - 1)}>
        Previous
      </button>
      <span role="status">
        {total ? `${count(first)} to ${count(Math.min(total, page * size))} of ${count(total)} ${what}` : `No ${what}`}
      </span>
      <button type="button" disabled={page >= last} onClick={() => onPage(page + 1)}>
        Next
      </button>
      <button type="button" disabled={page >= last} onClick={() => onPage(last)} aria-label="Last page">
        »
      </button>
    </nav>
  );
}

interface SelectProps {
  label: string;
  value: string;
  options: readonly (readonly [value: string, text: string])[];
  onChange: (value: string) => void;
}

export function Select({ label, value, options, onChange }: SelectProps) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <select id={id} value={value} onChange={(event) => onChange((event.currentTarget as HTMLSelectElement).value)}>
        {options.map(([one, text]) => (
          <option key={one} value={one} selected={one === value}>
            {text}
          </option>
        ))}
      </select>
    </div>
  );
}

export function Section({ title, children, aside }: { title: string; children: ComponentChildren; aside?: ComponentChildren }) {
  return (
    <section class="section" aria-label={title}>
      <header>
        <h2>{title}</h2>
        {aside}
      </header>
      {children}
    </section>
  );
}

/** What is known of one thing: names and values. */
export function Facts({ facts }: { facts: readonly (readonly [name: string, value: string])[] }) {
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** A table that scrolls sideways where it is too wide, also by keyboard. */
export function Scroll({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={label}>
      {children}
    </div>
  );
}

/** A question before what cannot be done in passing. Escape closes it; the focus stays in it, then goes back. */
export function Dialog({ title, children, onClose }: { title: string; children: ComponentChildren; onClose: () => void }) {
  const id = useId();
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const opened = dialog.current;
    const before = document.activeElement;
    opened?.showModal();
    return () => {
      opened?.close();
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  return (
    <dialog ref={dialog} aria-labelledby={id} onCancel={(event) => (event.preventDefault(), onClose())}>
      <h2 id={id}>{title}</h2>
      {children}
    </dialog>
  );
}
