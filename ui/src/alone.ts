/**
 * The page at an address of its own, /flywheel-results/: its first row is there before the script of Airflow's
 * UI, 7 MB of it, would have run. The same views with the same addresses; the theme is what Airflow's UI has set.
 */

import { h, render } from "preact";

import styles from "./alone.css?inline";
import { hostUrl } from "./api";
import { App, type AppProps } from "./app";

/** Return whether this document is that page, and not Airflow's. */
export function isAlone(): boolean {
  return "flywheelAlone" in document.documentElement.dataset;
}

export function startAlone(addStyles: (text: string) => void): void {
  const page = document.createElement("div");
  page.className = "flywheel";

  const navigate: AppProps["navigate"] = (to, options) => {
    if (typeof to === "string") {
      location.assign(hostUrl(to));
      return;
    }
    history[options?.replace ? "replaceState" : "pushState"](null, "", `${location.pathname}${to.search}`);
    show();
  };
  const show = () => render(h(App, { search: location.search, navigate }), page);

  addEventListener("popstate", show);
  addStyles(styles);
  useTheme();
  document.body.append(page);
  show();
}

/** Take the theme that Airflow's UI keeps: light, dark, or the system's. */
function useTheme(): void {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const asked = localStorage.getItem("theme");
    const isDark = asked === "dark" || (asked !== "light" && system.matches);
    document.documentElement.classList.toggle("dark", isDark);
    document.documentElement.style.colorScheme = isDark ? "dark" : "light";
  };
  system.addEventListener("change", apply);
  addEventListener("storage", apply);
  apply();
}
