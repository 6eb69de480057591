/**
 * A chart of points and lines. Its points are read with the pointer, or with the arrow keys once it has the
 * focus; each is then told in words, which a screen reader speaks. All its figures are in a table below it.
 */

import { line } from "d3-shape";
import { useId, useMemo, useRef, useState } from "preact/hooks";

import { useWidth } from "../hooks";
import { type Interval, f1 } from "../logic/format";
import { type Axis, type Kind, axis, verticalAxis } from "./scales";

export interface Point {
  x: number;
  y: number;
  interval?: Interval | null;
  /** The point in words. */
  text: string;
  /** Drawn larger, with a ring. */
  marked?: boolean;
  /** Whatever `onPick` is to be told. */
  id?: string;
}

export interface Series {
  name: string;
  points: Point[];
  /** Colour and shape: 0 to 5. */
  look: number;
  line?: boolean;
  markers?: boolean;
  /** How the line is drawn: 0 whole, 1 to 3 broken. */
  dash?: number;
  /** As steps: a value holds until the next one. */
  steps?: boolean;
  /** Not in the legend: another series stands for it. */
  unlisted?: boolean;
}

export interface ChartProps {
  title: string;
  x: { label: string; kind: Kind; ticks?: readonly number[]; read: (value: number) => string };
  y: { label: string; whole?: readonly [number, number]; read?: (value: number) => string };
  series: Series[];
  /** A line behind the series, which is not read by itself. */
  under?: Series;
  /** Horizontal lines with a name. */
  references?: { y: number; label: string }[];
  height?: number;
  onPick?: (id: string) => void;
}

const LEFT = 52;
const RIGHT = 14;
const TOP = 12;
const BOTTOM = 44;
const INTERVALS_OF_MARKERS = 3;

export function Chart(props: ChartProps) {
  const { title, x, y, series, under, references = [], height = 290, onPick } = props;
  const frame = useRef<HTMLDivElement>(null);
  const width = useWidth(frame, 560);
  const id = useId();
  const [at, setAt] = useState<number | null>(null);
  const [isOpen, setOpen] = useState(false);
  const drawn = series.filter((one) => one.points.length);
  const scene = useMemo(() => layOut(drawn, props, width, height), [series, references, width, height]);
  const { places, across, up } = scene;
  const active = at === null ? undefined : places[at];

  function onPointer(event: PointerEvent) {
    const box = (event.currentTarget as Element).getBoundingClientRect();
    setAt(nearest(places, event.clientX - box.left, event.clientY - box.top));
  }

  function onKey(event: KeyboardEvent) {
    const steps: Record<string, number> = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    const step = steps[event.key];
    if (step !== undefined && places.length) {
      event.preventDefault();
      setAt(at === null ? (step > 0 ? 0 : places.length - 1) : (at + step + places.length) % places.length);
    } else if (event.key === "Escape") setAt(null);
    else if ((event.key === "Enter" || event.key === " ") && active?.point.id && onPick) {
      event.preventDefault();
      onPick(active.point.id);
    }
  }

  if (!drawn.length) return null;
  return (
    <figure class="chart" aria-labelledby={`${id}-title`}>
      <figcaption id={`${id}-title`}>{title}</figcaption>
      <Legend series={[...drawn, ...(under && under.points.length ? [under] : [])]} references={references} />
      <div class="frame" ref={frame}>
        <svg
          width={width}
          height={height}
          tabIndex={0}
          role="application"
          aria-roledescription="chart"
          aria-label={`${title}: ${places.length} points; arrow keys read them`}
          onPointerMove={onPointer}
          onPointerLeave={() => setAt(null)}
          onClick={() => active?.point.id && onPick?.(active.point.id)}
          onKeyDown={onKey}
          onBlur={() => setAt(null)}
          class={onPick && active?.point.id ? "pickable" : ""}
        >
          <Axes x={across} y={up} width={width} height={height} labels={[x.label, y.label]} />
          {references.map(({ y: value, label }) => (
            <line class="reference" key={label} x1={LEFT} x2={width - RIGHT} y1={up(value)} y2={up(value)} />
          ))}
          {under && <Drawn one={under} across={across} up={up} />}
          {drawn.map((one) => (
            <Drawn key={one.name} one={one} across={across} up={up} />
          ))}
          {active && <circle class="ring" cx={active.left} cy={active.top} r={9} />}
        </svg>
        {active && (
          <div
            class={`tip ${active.left > width / 2 ? "to-left" : ""}`}
            style={{ left: `${active.left}px`, top: `${active.top}px` }}
          >
            {active.point.text}
          </div>
        )}
        <p class="unseen" role="status">
          {active?.point.text}
        </p>
      </div>
      <details onToggle={(event) => setOpen((event.currentTarget as HTMLDetailsElement).open)}>
        <summary>As a table</summary>
        {isOpen && <PointTable {...props} series={drawn} />}
      </details>
    </figure>
  );
}

interface Placed {
  point: Point;
  left: number;
  top: number;
}

function layOut(series: Series[], { x, y, references = [] }: ChartProps, width: number, height: number) {
  const points = series.flatMap((one) => one.points);
  const across = axis(x.kind, points.map((point) => point.x), LEFT, width - RIGHT, x.ticks);
  const heights = points.flatMap((point) => [point.y, ...(point.interval ?? [])]);
  const up = verticalAxis([...heights, ...references.map((one) => one.y)], height - BOTTOM, TOP, y.whole);
  const places: Placed[] = points.map((point) => ({ point, left: across(point.x), top: up(point.y) }));
  return { across, up, places };
}

function nearest(places: Placed[], left: number, top: number): number | null {
  let found: number | null = null;
  let closest = 60 * 60;
  places.forEach((place, index) => {
    const distance = (place.left - left) ** 2 + (place.top - top) ** 2;
    if (distance < closest) [closest, found] = [distance, index];
  });
  return found;
}

function Axes({ x, y, width, height, labels }: { x: Axis; y: Axis; width: number; height: number; labels: [string, string] }) {
  const bottom = height - BOTTOM;
  return (
    <g class="axes" aria-hidden="true">
      {y.ticks.map(({ value, label }) => (
        <g key={value}>
          <line x1={LEFT} x2={width - RIGHT} y1={y(value)} y2={y(value)} />
          <text x={LEFT - 8} y={y(value)} dy="0.32em" text-anchor="end">
            {label}
          </text>
        </g>
      ))}
      {x.ticks.map(({ value, label }) => (
        <text key={value} x={x(value)} y={bottom + 17} text-anchor="middle">
          {label}
        </text>
      ))}
      <line class="base" x1={LEFT} x2={width - RIGHT} y1={bottom} y2={bottom} />
      <text class="label" x={(LEFT + width - RIGHT) / 2} y={height - 6} text-anchor="middle">
        {labels[0]}
      </text>
      <text class="label" transform={`translate(12 ${(TOP + bottom) / 2}) rotate(-90)`} text-anchor="middle">
        {labels[1]}
      </text>
    </g>
  );
}

function Drawn({ one, across, up }: { one: Series; across: Axis; up: Axis }) {
  const path = one.line && line<Point>((point) => across(point.x), (point) => up(point.y))(corners(one));
  const showsMarkers = one.markers !== false;
  return (
    <g class={`series look-${one.look}`}>
      {path && <path class={`line dash-${one.dash ?? 0}`} d={path} />}
      {showsMarkers &&
        one.points.map((point, index) => (
          <g key={index} transform={`translate(${across(point.x)} ${up(point.y)})`}>
            {point.interval && <Whisker low={up(point.interval[0]) - up(point.y)} high={up(point.interval[1]) - up(point.y)} />}
            {point.marked && <circle class="mark" r={9} />}
            <Marker look={one.look} />
          </g>
        ))}
    </g>
  );
}

function corners(one: Series): Point[] {
  if (!one.steps) return one.points;
  return one.points.flatMap((point, index) => {
    const before = one.points[index - 1];
    return before ? [{ ...point, y: before.y }, point] : [point];
  });
}

function Whisker({ low, high }: { low: number; high: number }) {
  return (
    <path class="whisker" d={`M0 ${low}V${high}M-${INTERVALS_OF_MARKERS} ${low}h6M-${INTERVALS_OF_MARKERS} ${high}h6`} />
  );
}

const SHAPES = [
  "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0",
  "M-4 -4h8v8h-8z",
  "M0 -5.2L5 4H-5z",
  "M0 -5.6L5.6 0L0 5.6L-5.6 0z",
  "M0 5.2L5 -4H-5z",
  "M-1.6 -5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4z",
];

function Marker({ look }: { look: number }) {
  return <path class="marker" d={SHAPES[look % SHAPES.length]} />;
}

function Legend({ series, references }: { series: Series[]; references: { label: string }[] }) {
  const listed = series.filter((one) => !one.unlisted);
  if (listed.length + references.length < 2) return null;
  return (
    <ul class="legend" aria-hidden="true">
      {listed.map((one) => (
        <li key={one.name} class={`series look-${one.look}`}>
          <svg width="22" height="12" viewBox="-11 -6 22 12">
            {one.line && <path class={`line dash-${one.dash ?? 0}`} d="M-11 0H11" />}
            {one.markers !== false && <Marker look={one.look} />}
          </svg>
          {one.name}
        </li>
      ))}
      {references.map(({ label }) => (
        <li key={label}>
          <svg width="22" height="12" viewBox="-11 -6 22 12">
            <line class="reference" x1="-11" x2="11" y1="0" y2="0" />
          </svg>
          {label}
        </li>
      ))}
    </ul>
  );
}

function PointTable({ title, x, y, series }: ChartProps) {
  const read = y.read ?? f1;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={`${title}, as a table`}>
      <table>
        <caption class="unseen">{title}</caption>
        <thead>
          <tr>
            <th scope="col">Series</th>
            <th scope="col">{x.label}</th>
            <th scope="col">{y.label}</th>
            <th scope="col">95 % interval</th>
          </tr>
        </thead>
        <tbody>
          {series.flatMap((one) =>
            one.points.map((point, index) => (
              <tr key={`${one.name} ${index}`}>
                <td>{one.name}</td>
                <td class="figure">{x.read(point.x)}</td>
                <td class="figure">{read(point.y)}</td>
                <td class="figure">{point.interval ? `${read(point.interval[0])} to ${read(point.interval[1])}` : ""}</td>
              </tr>
            )),
          )}
        </tbody>
      </table>
    </div>
  );
}
