import type { ElementRun } from '../base/ranges.ts'
import type { Grid } from './program.ts'

/** The runs that cover `count` elements. */
export function* runsOf(count: number, { run }: Grid): Generator<ElementRun> {
  for (let first = 0; first < count; first += run) {
    yield { first, count: Math.min(run, count - first) }
  }
}

/** The run that covers elements `[from, to)` and begins with a cell; `to - from` is at most {@link nodeElements}. */
export function runAround(from: number, to: number, count: number, { cell }: Grid): ElementRun {
  const first = from - (from % cell)
  return { first, count: Math.min(Math.ceil(to / cell) * cell, count) - first }
}

/** Most elements that fit into one run wherever they begin. */
export function nodeElements({ cell, run }: Grid): number {
  return run - 2 * cell
}
