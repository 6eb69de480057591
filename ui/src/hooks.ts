/** What the views share: answers of the API, kept and asked for again, and the width of an element. */

import type { RefObject } from "preact";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";

import { Problem, get } from "./api";

export interface Answer<T> {
  data: T | null;
  problem: Problem | null;
  isLoading: boolean;
  /** Ask again now. */
  reload: () => void;
}

const MOST_KEPT = 60;
const kept = new Map<string, unknown>();

/**
 * Ask the API for a path. What was answered before is shown at once, until the new answer is there.
 *
 * @param path null: nothing is asked.
 * @param everySeconds ask again after so long, while the page is seen; 0: once.
 */
export function useAnswer<T>(path: string | null, everySeconds = 0): Answer<T> {
  const [, setVersion] = useState(0);
  const state = useRef<{ path: string | null; problem: Problem | null; isLoading: boolean }>({
    path: null,
    problem: null,
    isLoading: false,
  });
  const show = useCallback(() => setVersion((version) => version + 1), []);
  const abort = useRef<AbortController | null>(null);
  const isAsking = useRef(false);

  const ask = useCallback(async () => {
    if (path === null) return;
    abort.current?.abort();
    const controller = (abort.current = new AbortController());
    isAsking.current = true;
    try {
      const data = await get<T>(path, controller.signal);
      keep(path, data);
      state.current = { path, problem: null, isLoading: false };
    } catch (error) {
      if (controller.signal.aborted) return;
      state.current = { path, problem: Problem.of(error), isLoading: false };
    }
    isAsking.current = false;
    show();
  }, [path]);

  if (state.current.path !== path) state.current = { path, problem: null, isLoading: path !== null };

  useEffect(() => {
    void ask();
    return () => abort.current?.abort();
  }, [path]);

  useEffect(() => {
    if (!everySeconds || path === null) return undefined;
    const timer = setInterval(() => {
      if (!document.hidden && !isAsking.current) void ask();
    }, everySeconds * 1000);
    return () => clearInterval(timer);
  }, [path, everySeconds]);

  const data = path === null ? null : ((kept.get(path) as T | undefined) ?? null);
  return { data, problem: state.current.problem, isLoading: state.current.isLoading, reload: () => void ask() };
}

function keep(path: string, data: unknown): void {
  kept.delete(path);
  kept.set(path, data);
  if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value as string);
}

/** Return the width of an element in pixels, also when it changes. */
export function useWidth(element: RefObject<HTMLElement | null>, atFirst: number): number {
  const [width, setWidth] = useState(atFirst);
  useEffect(() => {
    if (!element.current) return undefined;
    const watcher = new ResizeObserver(([entry]) => entry && setWidth(Math.max(260, Math.floor(entry.contentRect.width))));
    watcher.observe(element.current);
    return () => watcher.disconnect();
  }, []);
  return width;
}
