/** What the jobs of a run do, or did: progress, time left, loss curves and the logs of their tasks. */

import { useState } from "preact/hooks";

import type { Job, RunDetail, StudentJobs } from "../api";
import { Chart, type Series } from "../charts/chart";
import { AirflowLink } from "../context";
import { duration, isKnown, percent, short } from "../logic/format";
import { Badge, Bar, Scroll, Section, Select } from "../parts";

export function TrainingTab({ run }: { run: RunDetail }) {
  if (!run.jobs.length) return <p class="note">The jobs are known once the run is planned.</p>;
  return (
    <>
      <Losses run={run} />
      <Section title="Jobs">
        <Jobs jobs={run.jobs} />
      </Section>
    </>
  );
}

function Losses({ run }: { run: RunDetail }) {
  const trained = run.jobs.filter((one) => one.customize?.losses?.length);
  const students = [...new Set(trained.map((one) => one.student))];
  const [student, setStudent] = useState("");
  if (!trained.length) return <p class="note">Loss curves begin with the first training.</p>;
  const shown = trained.filter((one) => !student || one.student === student);
  const sizes = [...new Set(trained.map((one) => one.size))];
  const series: Series[] = shown.flatMap((one) => curvesOf(one, students.indexOf(one.student) % 6, sizes.indexOf(one.size) % 4));
  return (
    <Section
      title="Loss"
      aside={
        <Select
          label="Student"
          value={student}
          options={[["", "all"], ...students.map((name) => [name, name] as const)]}
          onChange={setStudent}
        />
      }
    >
      <Chart
        title="Training loss by optimizer step; points: validation loss"
        x={{ label: "optimizer step", kind: "linear", read: String }}
        y={{ label: "loss, nats a token", whole: [0, Infinity], read: (value) => value.toFixed(3) }}
        series={series}
        height={320}
      />
    </Section>
  );
}

function curvesOf(one: StudentJobs, look: number, dash: number): Series[] {
  const losses = one.customize?.losses ?? [];
  const validated = losses.filter((loss) => isKnown(loss.val_loss));
  return [
    {
      name: one.name,
      look,
      dash,
      line: true,
      markers: false,
      points: losses.map(({ step, loss }) => ({ x: step, y: loss, text: `${one.name}, step ${step}: loss ${loss.toFixed(3)}` })),
    },
    {
      name: `${one.name}, validation`,
      look,
      unlisted: true,
      points: validated.map(({ step, val_loss }) => ({
        x: step,
        y: val_loss as number,
        text: `${one.name}, step ${step}: validation loss ${(val_loss as number).toFixed(3)}`,
      })),
    },
  ];
}

function Jobs({ jobs }: { jobs: StudentJobs[] }) {
  const rows = jobs.flatMap((one) => [
    ...(one.customize ? [{ one, what: "training", job: one.customize }] : []),
    { one, what: one.kind === "base" ? "evaluation, untrained" : "evaluation", job: one.evaluate },
  ]);
  return (
    <Scroll label="Jobs of the run">
      <table class="wide">
        <caption class="unseen">Jobs of the run with their progress and logs</caption>
        <thead>
          <tr>
            <th scope="col">Candidate</th>
            <th scope="col">Job</th>
            <th scope="col">State</th>
            <th scope="col">Progress</th>
            <th scope="col" class="figure">
              Left
            </th>
            <th scope="col" class="figure">
              Took
            </th>
            <th scope="col" class="figure">
              Records/s
            </th>
            <th scope="col">Log</th>
          </tr>
        </thead>
        <tbody>
          {rows.map(({ one, what, job }) => (
            <JobRow key={`${one.kind} ${one.name} ${what}`} name={one.name} what={what} job={job} />
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function JobRow({ name, what, job }: { name: string; what: string; job: Job }) {
  const took = job.started_at && job.ended_at ? (Date.parse(job.ended_at) - Date.parse(job.started_at)) / 1000 : null;
  return (
    <tr>
      <th scope="row">{name}</th>
      <td>
        {what}
        {job.error && <span class="problem sub">{job.error}</span>}
      </td>
      <td>
        <Badge state={job.state} />
        {job.found && <span class="faint sub">found, done before</span>}
      </td>
      <td>
        {job.state === "running" ? (
          <>
            <Bar value={job.progress} label={`Progress of ${what} ${name}`} />
            <span class="faint sub">
              {isKnown(job.step) && isKnown(job.steps) ? `${job.step} of ${job.steps}` : percent(job.progress)}
            </span>
          </>
        ) : (
          isKnown(job.steps) && <span class="figure">{job.step ?? 0} of {job.steps}</span>
        )}
      </td>
      <td class="figure">{job.state === "running" ? duration(job.seconds_left) : "–"}</td>
      <td class="figure">{duration(took)}</td>
      <td class="figure">{isKnown(job.records_per_second) ? short(job.records_per_second) : "–"}</td>
      <td>
        {job.task ? (
          <AirflowLink path={job.task.url} label={`Log of ${what} ${name}`}>
            log
          </AirflowLink>
        ) : (
          <span class="faint">–</span>
        )}
      </td>
    </tr>
  );
}
