/** What runs cost: the teacher's tokens and the machines' hours, each by its price. */

import type { CostPart, Costs, Payback } from "../api";
import { count, money, price } from "../logic/format";
import { Facts, Scroll, Section } from "../parts";

/** A run's cost in a line. */
export function RunCost({ cost }: { cost: CostPart }) {
  const hours = [
    cost.cpu_hours > 0 && `${cost.cpu_hours.toFixed(2)} CPU hours`,
    cost.gpu_hours > 0 && `${cost.gpu_hours.toFixed(2)} GPU hours`,
  ].filter(Boolean);
  return (
    <p class="faint">
      This run cost {cost.total === null ? "what has no price" : money(cost.total, cost.currency)}: the teacher{" "}
      {cost.teacher === null ? "without a price" : money(cost.teacher, cost.currency)} ({count(cost.tokens)} tokens), machines{" "}
      {cost.machines === null ? "without a price" : money(cost.machines, cost.currency)} ({hours.join(", ") || "none"}).
    </p>
  );
}

/** When answers in production have saved what they are to pay for. */
function payback(pays: Payback | null, currency: string): string {
  if (!pays || pays.after === null) return "not known";
  const after = `after ${count(pays.after)} answers in the teacher's place`;
  if (!pays.answered) return `${after}; none was given yet`;
  const saved = pays.saved === null ? "" : `, which saved ${money(pays.saved, currency)}`;
  return `${after}; ${count(pays.answered)} were given${saved}${pays.paid ? ": paid" : ""}`;
}

/** What all runs of a workload and client have cost, by month, and when the champion has paid for them. */
export function CostsSection({ found: data }: { found: Costs }) {
  if (!data.total) return null;
  const currency = data.total.currency;
  return (
    <Section title="Costs">
      <Facts
        facts={[
          ["So far", money(data.total.total, currency)],
          ["Last run", money(data.last?.total ?? null, currency)],
          ["A million answers of the teacher", price(data.teacher_per_million, currency)],
          ["A million of the champion's", price(data.champion_per_million, currency)],
          ["The champion pays for its own run", payback(data.making, currency)],
          ["Students pay for all runs", payback(data.all_runs, currency)],
        ]}
      />
      <Scroll label="Costs by month">
        <table>
          <caption class="unseen">Costs by month, by the clock of the day</caption>
          <thead>
            <tr>
              <th scope="col">Month</th>
              {["Runs", "Tokens", "Teacher", "CPU hours", "GPU hours", "Machines", "Together"].map((name) => (
                <th key={name} scope="col" class="figure">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {data.months.map(({ month, runs, cost }) => (
              <tr key={month}>
                <th scope="row" class="month">{month}</th>
                <td class="figure">{count(runs)}</td>
                <td class="figure">{count(cost.tokens)}</td>
                <td class="figure">{money(cost.teacher, cost.currency)}</td>
                <td class="figure">{cost.cpu_hours.toFixed(2)}</td>
                <td class="figure">{cost.gpu_hours.toFixed(2)}</td>
                <td class="figure">{money(cost.machines, cost.currency)}</td>
                <td class="figure">{money(cost.total, cost.currency)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </Section>
  );
}
