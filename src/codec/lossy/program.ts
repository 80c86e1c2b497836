import { CELL, FRAME_BYTES } from '../base/limits.ts'
import type { ElementRun } from '../base/ranges.ts'
import type { EncodePass, PassResult } from './passes.ts'

/** How a tensor is cut into runs for passes, in elements: a run begins at a multiple of `cell` and has at most `run` elements. */
export interface Grid {
  readonly cell: number
  readonly run: number
}

/** The grid of frames in float32. Cells are the units of random access into a parent's delta. */
export const FLOAT_GRID: Grid = { cell: CELL, run: FRAME_BYTES / 4 }
/**
 * One pass over runs of a tensor. `take` gets the results in order, and returns bytes of the tensor's array data, or null.
 */
export interface Stage {
  readonly runs: Iterable<ElementRun>
  readonly pass: (run: ElementRun, i: number) => EncodePass
  readonly take: (result: PassResult, run: ElementRun, i: number) => Uint8Array | null
}

/** An encoder. What it yields is carried out in order: a stage is a pass over the tensor, bytes are written. */
export type EncodeProgram = Generator<Stage | Uint8Array, void, void>
