/** The choice of the candidate that a tab looks into. */

import type { RunDetail } from "../api";
import { usePage } from "../context";
import { type Named, chosen, evaluated, keyOf } from "../logic/candidates";
import { Select, pickName } from "../parts";

export function useCandidate(run: RunDetail): Named | null {
  const { place } = usePage();
  return chosen(run, place.candidate);
}

export function CandidateSelect({ run, candidate }: { run: RunDetail; candidate: Named }) {
  const { go } = usePage();
  const options = evaluated(run).map((one) => [keyOf(one), one.size === null ? `${one.student}, untrained` : pickName({ ...one, size: one.size })] as const);
  return <Select label="Candidate" value={keyOf(candidate)} options={options} onChange={(key) => go({ candidate: key, dpage: 1 }, true)} />;
}
