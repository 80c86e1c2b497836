/** A run of elements that a pass looks at; it begins at a multiple of the grid's cell. */

import { CELL, FRAME_BYTES } from '../base/limits.ts'
import type { EncodePass, PassResult } from './passes.ts'

export interface Run {
  readonly first: number
  readonly count: number
}

/** Where runs may begin, and how long they may be, in elements. */
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
  readonly runs: Iterable<Run>
  readonly pass: (run: Run, i: number) => EncodePass
  readonly take: (result: PassResult, run: Run, i: number) => Uint8Array | null
}

/** An encoder: what it yields is done in order, a stage by looking at the tensor, bytes by writing them. */
export type EncodeProgram = Generator<Stage | Uint8Array, void, void>
