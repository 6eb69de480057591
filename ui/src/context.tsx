/** What every part of the page may need: where the reader is, how to go elsewhere, and links that do. */

import { type ComponentChildren, createContext } from "preact";
import { useContext } from "preact/hooks";

import { hostUrl } from "./api";
import { type Place, START, writePlace } from "./logic/place";

export interface Page {
  place: Place;
  /** The run whose page of Airflow this is shown on; empty elsewhere. */
  fixedRun: string;
  /** Change the place; `replace` leaves no step for the browser's back button. */
  go: (change: Partial<Place>, replace?: boolean) => void;
  /** Go to another page of Airflow's UI. */
  leave: (path: string) => void;
}

export const PageContext = createContext<Page>(null as unknown as Page);

export function usePage(): Page {
  return useContext(PageContext);
}

/** The way to another place of this page: by itself, without what the reader has set at this one. */
export function to(change: Partial<Place>): Place {
  return { ...START, ...change };
}

/** Return the address of a place: with its path, for a query alone would be one of Airflow's start page. */
function placeUrl(place: Place, fixedRun: string): string {
  return `${location.pathname}${writePlace(place, fixedRun)}`;
}

interface LinkProps {
  children: ComponentChildren;
  class?: string;
  label?: string | undefined;
}

/** A link to another place of this page. */
export function PlaceLink({ place, children, label, ...rest }: LinkProps & { place: Place; current?: boolean }) {
  const { go, fixedRun } = usePage();
  return (
    <a
      class={rest.class}
      href={placeUrl(place, fixedRun)}
      aria-label={label}
      aria-current={rest.current ? "page" : undefined}
      onClick={(event) => {
        if (isPlain(event)) {
          event.preventDefault();
          go(place);
        }
      }}
    >
      {children}
    </a>
  );
}

/** A link to another page of Airflow's UI. */
export function AirflowLink({ path, children, label, ...rest }: LinkProps & { path: string }) {
  const { leave } = usePage();
  return (
    <a
      class={rest.class}
      href={hostUrl(path)}
      aria-label={label}
      onClick={(event) => {
        if (isPlain(event)) {
          event.preventDefault();
          leave(path);
        }
      }}
    >
      {children}
    </a>
  );
}

function isPlain(event: MouseEvent): boolean {
  return event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
}
