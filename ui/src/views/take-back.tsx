/** A word of a person's that is taken back: the button, the question before it, and what was wrong with it. */

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

import { Problem, remove } from "../api";
import { Dialog, Told } from "../parts";

/** Asks, and then removes what is at a path of the API; `ask` opens the question. */
export function useTakeBack(path: string, onDone: () => void) {
  const [isAsked, setAsked] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);

  async function go() {
    setProblem(null);
    try {
      await remove<unknown>(path);
      onDone();
    } catch (error) {
      setProblem(Problem.of(error));
    }
    setAsked(false);
  }

  return { isAsked, problem, go, ask: () => setAsked(true), close: () => setAsked(false) };
}

interface TakeBackProps {
  way: ReturnType<typeof useTakeBack>;
  title: string;
  action: string;
  children: ComponentChildren;
}

/** The question, where it is open, and what was wrong. */
export function TakeBack({ way, title, action, children }: TakeBackProps) {
  return (
    <>
      {way.problem && <Told problem={way.problem} />}
      {way.isAsked && (
        <Dialog title={title} onClose={way.close}>
          {children}
          <div class="row">
            <button type="button" class="main" onClick={() => void way.go()}>
              {action}
            </button>
            <button type="button" onClick={way.close}>
              Cancel
            </button>
          </div>
        </Dialog>
      )}
    </>
  );
}
