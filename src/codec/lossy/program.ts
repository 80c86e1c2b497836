import { CELL, FRAME_BYTES } from '../base/limits.ts'
import type { ElementRun } from '../base/ranges.ts'
import type { EncodePass, PassResult } from './passes.ts'

/** How a tensor is cut into the runs that passes look at, in elements: a run begins at a multiple of `cell` and has at most `run`. */
export interface Grid {
  readonly cell: number
  readonly run: number
}

/** The grid of frames of float32 values: cells are what random access into a parent's delta works in. */
export const FLOAT_GRID: Grid = { cell: CELL, run: FRAME_BYTES / 4 }
/**
 * One pass over runs of a tensor. `take` is given the results in order and returns bytes that belong to the tensor's array data,
 * if there are any.
 */
export interface Stage {
  readonly runs: Iterable<ElementRun>
  readonly pass: (run: ElementRun, i: number) => EncodePass
  readonly take: (result: PassResult, run: ElementRun, i: number) => Uint8Array | null
}

/** An encoder: what it yields is done in order, a stage by looking at the tensor, bytes by writing them. */
export type EncodeProgram = Generator<Stage | Uint8Array, void, void>
