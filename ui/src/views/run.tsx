/** One run: what it found out, or what it is doing. */

import { useRef } from "preact/hooks";

import { type RunDetail, runPath } from "../api";
import { PlaceLink, to, usePage } from "../context";
import { useAnswer } from "../hooks";
import { duration, moment } from "../logic/format";
import { progressOf } from "../logic/progress";
import { TABS, type Tab } from "../logic/place";
import { Badge, Bar, Missing } from "../parts";
import { ClassesTab } from "./classes";
import { DisagreementsTab } from "./disagreements";
import { FailureCard } from "./failure";
import { FilesTab } from "./files";
import { ResultsTab } from "./results";
import { ReviewTab } from "./review";
import { TradeoffsTab } from "./tradeoffs";
import { TrainingTab } from "./training";

const LIVE_SECONDS = 2;
const NAMES: Record<Tab, string> = {
  results: "Results",
  tradeoffs: "Cost and latency",
  classes: "Classes",
  disagreements: "Disagreements",
  training: "Training",
  review: "Review",
  files: "Logs and files",
};

export function RunView() {
  const { place, fixedRun } = usePage();
  const live = useRef(true);
  const answer = useAnswer<RunDetail>(runPath(place.run), live.current ? LIVE_SECONDS : 0);
  const run = answer.data;
  live.current = !run || ["queued", "running", "review"].includes(run.state);
  return (
    <main>
      <div class="title">
        <h1 tabIndex={-1}>{place.run}</h1>
        {run && <Badge state={run.state} />}
        {!fixedRun && (
          <PlaceLink class="button" place={to({ view: "compare", compare: [place.run] })}>
            Compare with another run
          </PlaceLink>
        )}
      </div>
      {run ? (
        <>
          <p class="faint facts">
            <PlaceLink place={to({ view: "champion", of: [run.workload_id, run.client_id].map(encodeURIComponent).join("/") })}>
              {run.workload_id} · {run.client_id}
            </PlaceLink>{" "}
            · {run.run_type}
            {run.cutoff !== null && ` · data before ${moment(run.cutoff)}`} · started {moment(run.started_at)}
            {run.ended_at && ` · took ${duration((Date.parse(run.ended_at) - Date.parse(run.started_at)) / 1000)}`}
          </p>
          {answer.problem && <p class="problem">{answer.problem.message}</p>}
          {run.failure ? <FailureCard run={run} /> : run.error && <p class="problem">{run.error}</p>}
          <Notices run={run} />
          <Tabs run={run} reload={answer.reload} />
        </>
      ) : (
        <Missing problem={answer.problem} isLoading={answer.isLoading} what="the run" />
      )}
    </main>
  );
}

function Notices({ run }: { run: RunDetail }) {
  const { place, go } = usePage();
  if (run.review?.state === "waiting" && place.tab !== "review")
    return (
      <p class="card waits">
        <b>{run.review.subject}</b>
        <button type="button" class="main" onClick={() => go({ tab: "review" })}>
          Review
        </button>
      </p>
    );
  if (run.state !== "running") return null;
  const { share, secondsLeft, doing } = progressOf(run);
  return (
    <div class="card running" aria-live="off">
      <Bar value={share} label="Progress of the run" />
      <span>
        {Math.round(share * 100)} % · {doing}
        {secondsLeft !== null && ` · about ${duration(secondsLeft)} left for the jobs that run`}
      </span>
    </div>
  );
}

function Tabs({ run, reload }: { run: RunDetail; reload: () => void }) {
  const { place, go } = usePage();
  const list = useRef<HTMLDivElement>(null);

  function onKey(event: KeyboardEvent) {
    // From the tab that has the focus: keys may come faster than the page is drawn anew.
    const at = TABS.findIndex((tab) => (event.target as HTMLElement).id === `tab-${tab}`);
    if (at < 0) return;
    const next: Record<string, number> = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: TABS.length - 1 };
    const index = next[event.key];
    if (index === undefined) return;
    event.preventDefault();
    const tab = TABS[(index + TABS.length) % TABS.length] as Tab;
    go({ tab }, true);
    list.current?.querySelector<HTMLElement>(`#tab-${tab}`)?.focus();
  }

  return (
    <>
      <div class="tabs" role="tablist" aria-label="Parts of the run" ref={list} onKeyDown={onKey}>
        {TABS.map((tab) => (
          <button
            key={tab}
            id={`tab-${tab}`}
            type="button"
            role="tab"
            aria-selected={tab === place.tab}
            aria-controls="tab-panel"
            tabIndex={tab === place.tab ? 0 : -1}
            onClick={() => go({ tab }, true)}
          >
            {NAMES[tab]}
          </button>
        ))}
      </div>
      <div id="tab-panel" role="tabpanel" aria-labelledby={`tab-${place.tab}`} tabIndex={-1}>
        {place.tab === "results" && <ResultsTab run={run} />}
        {place.tab === "tradeoffs" && <TradeoffsTab run={run} />}
        {place.tab === "classes" && <ClassesTab run={run} />}
        {place.tab === "disagreements" && <DisagreementsTab run={run} />}
        {place.tab === "training" && <TrainingTab run={run} />}
        {place.tab === "review" && <ReviewTab run={run} reload={reload} />}
        {place.tab === "files" && <FilesTab run={run} />}
      </div>
    </>
  );
}
