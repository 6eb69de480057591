/** The Pareto front: what nothing else beats in both quality and cost. */

export interface Option {
  /** Less is better: parameters, seconds, milliseconds. */
  cost: number;
  /** More is better: F1. */
  quality: number;
}

/**
 * Return the options that no other one beats: none costs as little and is better, none is as good and costs
 * less. Equals stay together. Cheapest first.
 */
export function paretoFront<T extends Option>(options: readonly T[]): T[] {
  const cheapest = [...options].sort((a, b) => a.cost - b.cost || b.quality - a.quality);
  const front: T[] = [];
  let best = -Infinity;
  let bestCost = -Infinity;
  for (const option of cheapest) {
    if (option.quality > best) {
      best = option.quality;
      bestCost = option.cost;
      front.push(option);
    } else if (option.quality === best && option.cost === bestCost) {
      front.push(option);
    }
  }
  return front;
}
