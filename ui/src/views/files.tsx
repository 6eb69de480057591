/** Where else the run can be looked at: the logs of its stages, MLflow, and its files. */

import { type Artifacts, type RunDetail, hostUrl, runPath } from "../api";
import { AirflowLink } from "../context";
import { useAnswer } from "../hooks";
import { duration } from "../logic/format";
import { Badge, Missing, Scroll, Section } from "../parts";

export function FilesTab({ run }: { run: RunDetail }) {
  return (
    <>
      <Section title="Elsewhere">
        <ul class="links">
          <li>
            <AirflowLink path={run.links.airflow}>The run's tasks and logs in Airflow</AirflowLink>
          </li>
          {run.links.report && (
            <li>
              <a href={hostUrl(run.links.report)} target="_blank" rel="noreferrer">
                The report as a page of its own
              </a>
            </li>
          )}
          {run.links.mlflow && <Mlflow of={run.links.mlflow} />}
        </ul>
      </Section>
      <Section title="Stages">
        <Stages run={run} />
      </Section>
      <Section title="Files">
        <Files run={run} />
      </Section>
    </>
  );
}

function Mlflow({ of }: { of: NonNullable<RunDetail["links"]["mlflow"]> }) {
  return (
    <li>
      {of.url ? (
        <a href={of.url} target="_blank" rel="noreferrer">
          The run in MLflow
        </a>
      ) : (
        <>
          MLflow, a file without a server: <code>mlflow ui --backend-store-uri {of.uri}</code>
        </>
      )}{" "}
      <span class="faint">
        experiment {of.experiment}, run {of.run_id}
      </span>
    </li>
  );
}

function Stages({ run }: { run: RunDetail }) {
  return (
    <Scroll label="Stages of the run">
      <table class="wide">
        <caption class="unseen">Stages of the run with their logs</caption>
        <thead>
          <tr>
            <th scope="col">Stage</th>
            <th scope="col">State</th>
            <th scope="col" class="figure">
              Took
            </th>
            <th scope="col">Log</th>
          </tr>
        </thead>
        <tbody>
          {run.stages.map((stage) => (
            <tr key={stage.name}>
              <th scope="row">{stage.name}</th>
              <td>
                <Badge state={stage.state} />
              </td>
              <td class="figure">
                {duration(
                  stage.started_at && stage.ended_at
                    ? (Date.parse(stage.ended_at) - Date.parse(stage.started_at)) / 1000
                    : run.report?.stages[stage.name],
                )}
              </td>
              <td>
                {stage.task ? (
                  <AirflowLink path={stage.task.url} label={`Log of ${stage.name}`}>
                    log
                  </AirflowLink>
                ) : (
                  <span class="faint">–</span>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function Files({ run }: { run: RunDetail }) {
  const { data, problem, isLoading } = useAnswer<Artifacts>(runPath(run.run_id, "/artifacts"));
  if (!data) return <Missing problem={problem} isLoading={isLoading} what="the files" />;
  return (
    <Scroll label="Files of the run">
      <table class="wide">
        <caption class="unseen">Files of the run</caption>
        <thead>
          <tr>
            <th scope="col">File</th>
            <th scope="col">What it is</th>
          </tr>
        </thead>
        <tbody>
          {data.artifacts.map((one) => (
            <tr key={one.name}>
              <th scope="row">
                <a href={hostUrl(one.url)} download>
                  {one.name}
                </a>
              </th>
              <td>{one.description}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
