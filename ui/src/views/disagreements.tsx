/** The held-out headlines that a candidate labels otherwise than the teacher, to read through. */

import { type ConfusionMatrix, type Disagreements, type RunDetail, query, runPath } from "../api";
import { usePage } from "../context";
import { useAnswer } from "../hooks";
import { count, percent } from "../logic/format";
import { Missing, Pager, Select } from "../parts";
import { CandidateSelect, useCandidate } from "./candidate";
import { NO_CLASS } from "./classes";

const ROWS = 25;

export function DisagreementsTab({ run }: { run: RunDetail }) {
  const { place, go } = usePage();
  const candidate = useCandidate(run);
  const named = candidate && { student: candidate.student, size: candidate.size };
  const path =
    named &&
    query(runPath(run.run_id, "/disagreements"), {
      ...named,
      label: place.teacher,
      limit: ROWS,
      offset: (place.dpage - 1) * ROWS,
    }) + answered(place.student);
  const { data, problem, isLoading } = useAnswer<Disagreements>(path);
  const classes = useAnswer<ConfusionMatrix>(named && query(runPath(run.run_id, "/confusion"), named));
  if (!candidate) return <p class="note">No candidate is evaluated yet.</p>;
  const wrong = data ? Object.values(data.by_label).reduce((sum, one) => sum + one, 0) : 0;
  const labels = classes.data?.labels ?? [];
  return (
    <>
      <div class="filters">
        <CandidateSelect run={run} candidate={candidate} />
        <Select
          label="The teacher says"
          value={place.teacher}
          options={[["", "anything"], ...labels.map((one) => [one, `${one}${data?.by_label[one] ? ` (${data.by_label[one]})` : ""}`] as const)]}
          onChange={(teacher) => go({ teacher, dpage: 1 }, true)}
        />
        <Select
          label="The student says"
          value={place.student}
          options={[["", "anything"], ...labels.map((one) => [one, one] as const), [NO_CLASS, "no class at all"]]}
          onChange={(student) => go({ student, dpage: 1 }, true)}
        />
      </div>
      {data ? (
        <>
          <p class="faint">
            {count(wrong)} of {count(data.records)} held-out headlines are labelled otherwise than by the teacher (
            {percent(data.records ? wrong / data.records : 0)}).
          </p>
          <ol class="readings" start={(place.dpage - 1) * ROWS + 1}>
            {data.disagreements.map((one) => (
              <li key={one.id}>
                <p class="text">{one.text}</p>
                <p class="labels">
                  <span>
                    teacher <b>{one.teacher}</b>
                  </span>
                  <span class="other">
                    student <b>{one.student || "names no class"}</b>
                  </span>
                  {!one.student && one.answer && <q class="faint">{one.answer}</q>}
                </p>
              </li>
            ))}
          </ol>
          <Pager page={place.dpage} size={ROWS} total={data.total} what="headlines" onPage={(dpage) => go({ dpage })} />
        </>
      ) : (
        <Missing problem={problem} isLoading={isLoading} what="the headlines" />
      )}
    </>
  );
}

/** An answer that names no class is the empty one for the API, which a query without empty values would lose. */
function answered(student: string): string {
  if (!student) return "";
  return `&${new URLSearchParams({ answered: student === NO_CLASS ? "" : student })}`;
}
