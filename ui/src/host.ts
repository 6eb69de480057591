/**
 * The page as Airflow's UI loads it: a React component that gives its place in the document to a page of its own.
 *
 * Why `react_apps` and not `external_views`: an external view is a sandboxed iframe. It has an address of its
 * own that readers cannot copy, does not know Airflow's theme, keeps the keyboard to itself, and a screen reader
 * meets a document within a document. A React app is part of Airflow's page: colours come from the custom
 * properties of Airflow's theme, and the address bar holds the view.
 *
 * Why not with Airflow's React and Chakra: what is built on them breaks when Airflow changes them. The page
 * brings its own renderer (Preact, 5 kB) and meets Airflow at this component alone, which uses three hooks of
 * React that every React since 16.8 has, two of React Router, and the props `dagId` and `runId`.
 */

import { h, render } from "preact";

import { isAlone, startAlone } from "./alone";
import { App } from "./app";
import styles from "./style.css?inline";

interface Host {
  React: {
    createElement(type: string, props: object): unknown;
    useEffect(effect: () => void): void;
    useLayoutEffect(effect: () => () => void, inputs: readonly unknown[]): void;
    useRef<T>(value: T): { current: T };
  };
  ReactRouterDOM: {
    useLocation(): { pathname: string; search: string };
    useNavigate(): (to: string | { search: string }, options?: { replace?: boolean }) => void;
  };
  AirflowPlugin: unknown;
}

interface HostProps {
  dagId?: string;
  runId?: string;
}

const STYLED = "data-flywheel-styled";

/**
 * The page's own element. Airflow puts this component aside and makes it anew when it first renders again after
 * loading it; the element, with all that the reader has done in it, then goes from the old one into the new one.
 */
let page: HTMLElement | null = null;
let left: { focused: Element | null; scrolled: number } | null = null;

function FlywheelResults({ dagId, runId }: HostProps): unknown {
  const { React, ReactRouterDOM } = globalThis as unknown as Host;
  const { search } = ReactRouterDOM.useLocation();
  const navigate = ReactRouterDOM.useNavigate();
  const element = React.useRef<HTMLElement | null>(null);

  React.useLayoutEffect(() => {
    if (element.current) enter(element.current);
    return leave;
  }, []);
  React.useEffect(() => {
    const props = { key: `${dagId} ${runId}`, dagId, runId, search, navigate };
    if (page) render(h(App, props as Parameters<typeof App>[0]), page);
  });
  return React.createElement("div", { ref: element, style: { width: "100%", height: "100%" } });
}

function enter(element: HTMLElement): void {
  addStyles(styles);
  if (!page) {
    page = document.createElement("div");
    page.className = "flywheel";
  }
  element.append(page);
  if (left) {
    page.scrollTop = left.scrolled;
    if (left.focused instanceof HTMLElement || left.focused instanceof SVGElement) left.focused.focus({ preventScroll: true });
    left = null;
  }
}

function leave(): void {
  const focused = document.activeElement;
  left = page && { focused: page.contains(focused) ? focused : null, scrolled: page.scrollTop };
  setTimeout(() => {
    if (!page || page.isConnected) return;
    render(null, page);
    page = left = null;
  });
}

/** A sheet of its own and no `style` element: such a one would need a policy that lets in any inline style. */
function addStyles(text: string): void {
  if (document.documentElement.hasAttribute(STYLED)) return;
  document.documentElement.setAttribute(STYLED, "");
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(text);
  document.adoptedStyleSheets.push(sheet);
}

if (isAlone()) startAlone((first) => addStyles(`${first}\n${styles}`));
else (globalThis as unknown as Host).AirflowPlugin = FlywheelResults;
