/** Production: what was asked night by night, who answered, how often that agrees with the teacher, what it cost. */

import { useState } from "preact/hooks";

import { type Champion, type History, type Night, type Nights, type Watched } from "../api";
import { Chart, type Point } from "../charts/chart";
import { useAnswer } from "../hooks";
import { NONE, asDate, chance, count, day, milliseconds, moment, money, percent } from "../logic/format";
import { Facts, Missing, Pager, Scroll, Section } from "../parts";
import { useChampion } from "./champion";
import { Decide } from "./decide";
import { StopOrResume } from "./stop";

const ROWS = 30;
const LOGS: Record<Nights["log"], string> = {
  all: "texts, answers and who gave them",
  labels_only: "classes and who gave them, no texts",
  none: "nothing",
};

export function ProductionView() {
  const [page, setPage] = useState(1);
  const nights = useAnswer<Nights>(useChampion("production", { limit: ROWS, offset: (page - 1) * ROWS }));
  const current = useAnswer<Champion>(useChampion("champion"));
  const history = useAnswer<History>(useChampion("champion/history"));
  const { data, problem, isLoading } = nights;
  const last = data?.nights[0];
  return (
    <main>
      <h1 tabIndex={-1}>Production</h1>
      {data && <Settings data={data} />}
      {last?.alarms.map((alarm) => (
        <p class="warning" role="alert" key={alarm}>
          {alarm}
        </p>
      ))}
      {last?.remarks.map((remark) => (
        <p class="note" key={remark}>
          {remark}
        </p>
      ))}
      {data && !last && (
        <p class="note">
          No night has been looked at yet: <code>flywheel watch</code> does it, or the DAG at serving.watch.cron.
        </p>
      )}
      {last && <LastNight night={last} />}
      {data && last && (
        <>
          <Section title="Over the nights">
            <NightsChart nights={data.nights} />
          </Section>
          <Section title="Classes">
            <Classes night={last} />
          </Section>
          <Section title="All nights">
            <NightsTable nights={data.nights} />
            <Pager page={page} size={ROWS} total={data.total} what="nights" onPage={setPage} />
          </Section>
        </>
      )}
      {data && current.data && <StopOrResume production={data} onChanged={nights.reload} />}
      {history.data && (
        <Decide
          workload={history.data.workload_id}
          client={history.data.client_id}
          standing={current.data}
          before={history.data.before}
          onDone={() => [nights, current, history].forEach((answer) => answer.reload())}
        />
      )}
      {!data && <Missing problem={problem} isLoading={isLoading} what="the nights" />}
    </main>
  );
}

function Settings({ data }: { data: Nights }) {
  return (
    <div class="card champion">
      <span class="faint">
        {data.workload_id} · {data.client_id}
      </span>
      <span>
        kept of each request: <b>{LOGS[data.log]}</b>
      </span>
      <span>
        audit: <b class="figure">{chance(data.audit)}</b> of students' answers
      </span>
      {data.stop && <span class="warning">stopped by {data.stop.by || "somebody"}</span>}
      <span class="reason">
        {data.cascade ? `Cascade: ${data.cascade.reason}` : "No cascade: the champion answers all that it is asked."}
      </span>
    </div>
  );
}

function LastNight({ night }: { night: Night }) {
  const facts: [string, string][] = [
    ["Requests", count(night.requests)],
    ["Answered by the teacher", `${count(night.by_teacher)} (${part(night.by_teacher, night.requests)})`],
    ["Agreement with the teacher", share(night.agreement)],
    ["Since its promotion", share(night.agreement_since)],
    ["Sure of", share(night.answered)],
    ["Confidence", `${tenths(night.confidence)}, on its eval set ${tenths(night.confidence_eval)}`],
    ["Latency", `median ${milliseconds(night.p50)}, 95 of 100 within ${milliseconds(night.p95)}`],
    ["Teacher's cost", money(night.cost, night.currency)],
    ["Saved by students", money(night.saved, night.currency)],
    ["Not audited, for the budget was spent", count(night.left)],
  ];
  return (
    <Section title={`The night to ${moment(night.at)}`}>
      <Facts facts={facts} />
    </Section>
  );
}

function NightsChart({ nights }: { nights: Night[] }) {
  const rising = [...nights].reverse();
  const points = (read: (night: Night) => Watched, what: string): Point[] =>
    rising.flatMap((night) => {
      const found = read(night);
      const x = asDate(night.at)?.getTime() ?? 0;
      if (found.value === null) return [];
      const text = `${day(night.at)}: ${what} ${share(found)}`;
      return [{ x, y: found.value, interval: [found.low, found.high] as const, text, marked: found.alarm }];
    });
  const level = nights[0]?.agreement.level;
  return (
    <Chart
      title="Agreement with the teacher, and the share of requests that the champion was sure of"
      x={{ label: "night", kind: "time", read: (value) => moment(new Date(value)) }}
      y={{ label: "share", whole: [0, 1] }}
      series={[
        { name: "agreement", points: points((night) => night.agreement, "agreement"), look: 0, line: true },
        { name: "sure of", points: points((night) => night.answered, "sure of"), look: 1, line: true, dash: 1 },
      ]}
      references={typeof level === "number" ? [{ y: level, label: `must not fall below ${tenths(level)}` }] : []}
    />
  );
}

function Classes({ night }: { night: Night }) {
  const names = Object.keys({ ...night.classes, ...night.classes_eval }).sort(
    (a, b) => (night.classes[b] ?? 0) - (night.classes[a] ?? 0),
  );
  return (
    <>
      <p class="faint">
        Shares of the answers beside those on the champion's eval set
        {night.moved === null ? "." : `; ${percent(night.moved)} of the answers would have to be of another class for both to be the same.`}
      </p>
      <Scroll label="Classes">
        <table>
          <caption class="unseen">Shares of the classes</caption>
          <thead>
            <tr>
              <th scope="col">Class</th>
              <th scope="col" class="figure">
                That night
              </th>
              <th scope="col" class="figure">
                Eval set
              </th>
            </tr>
          </thead>
          <tbody>
            {names.map((name) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td class="figure">{tenths(night.classes[name] ?? 0)}</td>
                <td class="figure">{tenths(night.classes_eval[name] ?? 0)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}

function NightsTable({ nights }: { nights: Night[] }) {
  const heads = ["Requests", "Teacher", "Agreement", "Audited", "Sure of", "Latency", "Cost", "Saved"];
  return (
    <Scroll label="All nights">
      <table class="wide">
        <caption class="unseen">Nights of production, the latest first</caption>
        <thead>
          <tr>
            <th scope="col">Night to</th>
            <th scope="col">Champion</th>
            {heads.map((head) => (
              <th scope="col" class="figure" key={head}>
                {head}
              </th>
            ))}
            <th scope="col">Drift</th>
          </tr>
        </thead>
        <tbody>
          {nights.map((night) => (
            <tr key={night.at}>
              <td class="figure-left">{moment(night.at)}</td>
              <th scope="row">{night.champion || <span class="faint">the teacher</span>}</th>
              <td class="figure">{count(night.requests)}</td>
              <td class="figure">{part(night.by_teacher, night.requests)}</td>
              <td class="figure">{tenths(night.agreement.value)}</td>
              <td class="figure">{count(night.agreement.of)}</td>
              <td class="figure">{tenths(night.answered.value)}</td>
              <td class="figure">{milliseconds(night.p50)}</td>
              <td class="figure">{money(night.cost, night.currency)}</td>
              <td class="figure">{money(night.saved, night.currency)}</td>
              <td class="reason">
                {night.alarms.length ? <span class="warning">{night.alarms.join(" ")}</span> : night.remarks.join(" ")}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

/** A share with its interval and how many it is of. */
function share(found: Watched): string {
  if (found.value === null) return NONE;
  return `${tenths(found.value)} (${tenths(found.low)} to ${tenths(found.high)}, of ${count(found.of)})`;
}

function tenths(value: number | null): string {
  return value === null ? NONE : `${(100 * value).toFixed(1)} %`;
}

function part(some: number, all: number): string {
  return all ? tenths(some / all) : NONE;
}
