/** What was tested before a promotion, and how sure each answer is: in words, and each candidate's bound. */

import type { RunDetail } from "../api";
import { PlaceLink, usePage } from "../context";
import { type CandidateRow, candidatesOf, keyOf } from "../logic/candidates";
import { chance, count, f1, metricOf } from "../logic/format";
import { Scroll, Section, pickName } from "../parts";

export function Tested({ run }: { run: RunDetail }) {
  const { place } = usePage();
  const decision = run.report?.decision;
  if (!decision?.test?.length) return null;
  const tests = candidatesOf(run).filter((one) => one.state === "scored");
  tests.sort((one, other) => (one.test_place ?? 0) - (other.test_place ?? 0));
  return (
    <Section title="What was tested">
      <Words texts={decision.test} />
      <Scroll label="Tests of the candidates">
        <table class="wide">
          <caption class="unseen">Each candidate with the bound of its score and the error rate of its test</caption>
          <thead>
            <tr>
              <th scope="col">Candidate</th>
              <th scope="col" class="figure">{metricOf(run.report).short}</th>
              <th scope="col" class="figure">at least</th>
              <th scope="col" class="figure">but for a chance of</th>
              <th scope="col" class="figure">asked for</th>
              <th scope="col" class="figure">eval records</th>
              <th scope="col">passes</th>
            </tr>
          </thead>
          <tbody>
            {tests.map((one) => (
              <tr key={keyOf(one)} class={isChoice(run, one) ? "is-choice" : ""}>
                <th scope="row">
                  <PlaceLink place={{ ...place, tab: "classes", candidate: keyOf(one) }}>{pickName(one)}</PlaceLink>
                  {isChoice(run, one) && <span class="star"> ★</span>}
                </th>
                <td class="figure">{f1(one.score)}</td>
                <td class="figure">{f1(one.score_low)}</td>
                <td class="figure">{chance(one.test_rate)}</td>
                <td class="figure">{f1(decision.threshold)}</td>
                <td class="figure">{count(one.eval_records)}</td>
                <td>{one.passes ? "yes" : "no"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </Section>
  );
}

/** Sentences, one a line. */
export function Words({ texts }: { texts: readonly string[] }) {
  return (
    <ul class="words">
      {texts.map((text) => (
        <li key={text}>{text}</li>
      ))}
    </ul>
  );
}

function isChoice(run: RunDetail, one: CandidateRow): boolean {
  const choice = run.report?.decision.choice;
  return choice?.student === one.student && choice.size === one.size;
}
