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

import { App } from "./app";
import styles from "./style.css?inline";

interface Host {
  React: {
    createElement(type: string, props: object): unknown;
    useEffect(effect: () => void | (() => void), inputs?: readonly unknown[]): void;
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

const STYLE_ID = "flywheel-results-style";

function FlywheelResults({ dagId, runId }: HostProps): unknown {
  const { React, ReactRouterDOM } = globalThis as unknown as Host;
  const { search } = ReactRouterDOM.useLocation();
  const navigate = ReactRouterDOM.useNavigate();
  const element = React.useRef<HTMLElement | null>(null);

  React.useEffect(() => {
    addStyles();
    const node = element.current;
    return () => {
      if (node) render(null, node);
    };
  }, []);
  React.useEffect(() => {
    if (element.current) {
      const props = { dagId, runId, search, navigate };
      render(h(App, props as Parameters<typeof App>[0]), element.current);
    }
  });
  return React.createElement("div", { ref: element, className: "flywheel" });
}

function addStyles(): void {
  if (document.getElementById(STYLE_ID)) return;
  const style = document.createElement("style");
  style.id = STYLE_ID;
  style.textContent = styles;
  document.head.append(style);
}

(globalThis as unknown as Host).AirflowPlugin = FlywheelResults;
