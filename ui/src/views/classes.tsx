/** How well a candidate tells the classes: F1 class by class, and what it takes for what. */

import { type ConfusionMatrix, type RunDetail, query, runPath } from "../api";
import { PlaceLink, usePage } from "../context";
import { useAnswer } from "../hooks";
import { type Named, keyOf } from "../logic/candidates";
import { count, f1, percent } from "../logic/format";
import { Missing, Scroll, Section } from "../parts";
import { CandidateSelect, useCandidate } from "./candidate";

/** What answers that name none of the classes are called. */
export const NO_CLASS = "no class";

export function ClassesTab({ run }: { run: RunDetail }) {
  const candidate = useCandidate(run);
  const path = candidate && query(runPath(run.run_id, "/confusion"), { student: candidate.student, size: candidate.size });
  const { data, problem, isLoading } = useAnswer<ConfusionMatrix>(path);
  if (!candidate) return <p class="note">No candidate is evaluated yet.</p>;
  return (
    <>
      <div class="filters">
        <CandidateSelect run={run} candidate={candidate} />
        {data && (
          <span>
            weighted F1 <b class="figure">{f1(data.scores.f1_weighted)}</b>, macro F1 <b class="figure">{f1(data.scores.f1_macro)}</b>,{" "}
            {count(data.records)} held-out records
          </span>
        )}
      </div>
      {data && !data.labels.length ? (
        <p class="note">Answers of this workload are free texts: there are no classes to tell apart.</p>
      ) : data ? (
        <>
          <Section title="F1 by class">
            <PerClass data={data} candidate={candidate} />
          </Section>
          <Section title="Confusion matrix">
            <Matrix data={data} candidate={candidate} />
            <p class="faint">Rows: the teacher's label; columns: the student's. A cell off the diagonal leads to its headlines.</p>
          </Section>
        </>
      ) : (
        <Missing problem={problem} isLoading={isLoading} what="the classes" />
      )}
    </>
  );
}

function PerClass({ data, candidate }: { data: ConfusionMatrix; candidate: Named }) {
  const { place } = usePage();
  const rows = [...data.per_class].sort((a, b) => b.support - a.support);
  return (
    <Scroll label="F1 by class">
      <table class="classes">
        <caption class="unseen">Precision, recall and F1 of each class</caption>
        <thead>
          <tr>
            <th scope="col">Class</th>
            <th scope="col">F1</th>
            <th scope="col" class="figure">
              Precision
            </th>
            <th scope="col" class="figure">
              Recall
            </th>
            <th scope="col" class="figure">
              Records
            </th>
          </tr>
        </thead>
        <tbody>
          {rows.map((one) => (
            <tr key={one.label}>
              <th scope="row">
                <PlaceLink place={{ ...place, tab: "disagreements", candidate: keyOf(candidate), teacher: one.label, student: "", dpage: 1 }}>
                  {one.label}
                </PlaceLink>
              </th>
              <td class="meter" style={{ "--share": percent(one.f1).replace(" ", "") }}>
                <span class="figure">{f1(one.f1)}</span>
              </td>
              <td class="figure">{f1(one.precision)}</td>
              <td class="figure">{f1(one.recall)}</td>
              <td class="figure">{count(one.support)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function Matrix({ data, candidate }: { data: ConfusionMatrix; candidate: Named }) {
  const { place } = usePage();
  const lastIsUsed = data.matrix.some((row) => (row[data.columns.length - 1] ?? 0) > 0);
  const columns = data.columns.filter((_, index) => index < data.columns.length - 1 || lastIsUsed);
  return (
    <Scroll label="Confusion matrix">
      <table class="matrix">
        <caption class="unseen">Held-out records by the teacher's label and the student's</caption>
        <thead>
          <tr>
            <th scope="col">
              <span class="faint">teacher ╲ student</span>
            </th>
            {columns.map((column) => (
              <th scope="col" key={column} class="tilted">
                <span>{column}</span>
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {data.labels.map((label, row) => {
            const counts = data.matrix[row] ?? [];
            const total = counts.reduce((sum, one) => sum + one, 0);
            return (
              <tr key={label}>
                <th scope="row">{label}</th>
                {columns.map((column, index) => {
                  const value = counts[index] ?? 0;
                  const isRight = index === row;
                  const share = total ? value / total : 0;
                  return (
                    <td
                      key={column}
                      class={`${isRight ? "right" : "wrong"} ${share > 0.5 ? "deep" : ""}`}
                      style={{ "--share": String(share) }}
                      title={`${label} taken for ${column}: ${value} of ${total}`}
                    >
                      {value > 0 && !isRight ? (
                        <PlaceLink
                          place={{
                            ...place,
                            tab: "disagreements",
                            candidate: keyOf(candidate),
                            teacher: label,
                            student: column,
                            dpage: 1,
                          }}
                          label={`${value} of ${label} taken for ${column}: read them`}
                        >
                          {value}
                        </PlaceLink>
                      ) : (
                        value || <span class="zero">0</span>
                      )}
                    </td>
                  );
                })}
              </tr>
            );
          })}
        </tbody>
      </table>
    </Scroll>
  );
}
