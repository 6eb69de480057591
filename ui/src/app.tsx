/** The page: the list of runs, one run, two runs side by side, the champions there were, or production. */

import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";

import { isAlone } from "./alone";
import { hostUrl } from "./api";
import { type Page, PageContext, PlaceLink, to } from "./context";
import { DAG, experimentOf, runIdOf, shownExperiment } from "./logic/experiments";
import { type Place, readPlace, writePlace } from "./logic/place";
import { ChampionView } from "./views/champion";
import { CompareView } from "./views/compare";
import { ProductionView } from "./views/production";
import { RunView } from "./views/run";
import { RunsView } from "./views/runs";

export interface AppProps {
  dagId?: string | undefined;
  runId?: string | undefined;
  /** The query of the address. */
  search: string;
  navigate: (to: string | { search: string }, options?: { replace?: boolean }) => void;
}

export function App({ dagId, runId: airflowId, search, navigate }: AppProps) {
  const experiment = dagId ? experimentOf(dagId) : "";
  const runId = airflowId && runIdOf(airflowId, experiment ?? "");
  const [place, setPlace] = useState(() => readPlace(search, runId));
  const shown = useRef(search);
  const latest = useRef(place);
  latest.current = place;

  // The address has changed from outside: the back button, or a link of Airflow's.
  useEffect(() => {
    if (search !== shown.current) {
      shown.current = search;
      setPlace(readPlace(search, runId));
    }
  }, [search, runId]);

  const go = useCallback(
    (change: Partial<Place>, replace = false) => {
      const next = { ...latest.current, ...change };
      const text = writePlace(next, runId);
      const place = readPlace(text, runId);
      setPlace(place);
      if (text !== shown.current) {
        shown.current = text;
        navigate({ search: text }, { replace });
      }
    },
    [navigate, runId],
  );
  // Another view begins at its title, for the keyboard and for a screen reader too.
  const isFirst = useRef(true);
  useEffect(() => {
    if (!isFirst.current) document.querySelector<HTMLElement>(".flywheel h1")?.focus();
    isFirst.current = false;
  }, [place.view, place.run]);
  const page = useMemo<Page>(
    () => ({ place, go, fixedRun: runId ?? "", leave: (path) => navigate(path) }),
    [place, go, runId, navigate],
  );

  if (dagId && experiment === null) {
    return (
      <main class="page">
        <h1>No results here</h1>
        <p class="note">
          {dagId} is no experiment of the flywheel's: Airflow shows this tab on every DAG's page. Results are on the page of the DAG{" "}
          <a href={hostUrl(`dags/${DAG}/plugin/flywheel-results`)}>{DAG}</a>.
        </p>
      </main>
    );
  }
  return (
    <PageContext.Provider value={page}>
      <div class="page">
        {!runId && <Ways place={place} />}
        {place.view === "runs" && <RunsView of={dagId ? shownExperiment(experiment ?? "") : ""} />}
        {place.view === "run" && <RunView key={place.run} />}
        {place.view === "compare" && <CompareView />}
        {place.view === "champion" && <ChampionView />}
        {place.view === "production" && <ProductionView />}
      </div>
    </PageContext.Provider>
  );
}

function Ways({ place }: { place: Place }) {
  return (
    <nav class="ways" aria-label="Results">
      <PlaceLink place={to({ view: "runs" })} current={place.view === "runs"}>
        Runs
      </PlaceLink>
      <PlaceLink place={to({ view: "champion" })} current={place.view === "champion"}>
        Champion
      </PlaceLink>
      <PlaceLink place={to({ view: "production" })} current={place.view === "production"}>
        Production
      </PlaceLink>
      {place.view === "run" && <span aria-current="page">{place.run}</span>}
      {place.view === "compare" && <span aria-current="page">Two runs</span>}
      {isAlone() ? (
        <a class="aside" href={hostUrl(`dags/${DAG}`)}>
          Airflow
        </a>
      ) : (
        <a class="aside" href={hostUrl(`flywheel-results/${writePlace(place)}`)}>
          Without Airflow's frame
        </a>
      )}
    </nav>
  );
}
