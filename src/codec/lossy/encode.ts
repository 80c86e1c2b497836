import type { ElementRun } from '../base/ranges.ts'
import type { PlannedTensor } from '../wdelta/v1/writer.ts'
import { encodeInt4 } from './int4.ts'
import type { EncodePass, PassResult } from './passes.ts'
import { type EncodeProgram, FLOAT_GRID, type Grid } from './program.ts'
import { encodeQuantized } from './quantized.ts'
import { encodeSparse } from './sparse.ts'

/**
 * The program that encodes one tensor as planned. Its bytes are the data of the tensor's arrays, in the order of the plan. It holds a few
 * runs in memory, however large the tensor is.
 * @throws CodecError `not-finite` if the strategy cannot hold the NaN or infinite values of the delta
 */
export function encodeProgram(tensor: PlannedTensor, grid: Grid = FLOAT_GRID): EncodeProgram {
  switch (tensor.entry.strategy) {
    case 'int4':
      return encodeInt4(tensor.entry, grid)
    case 'sparse':
      return encodeSparse(tensor.entry, tensor.kept, grid)
    case 'quantized':
      return encodeQuantized(tensor.entry, grid)
  }
}

/**
 * Runs the program of a tensor whose values are all in memory; `look` takes a pass over one run of them.
 * Returns the data of its arrays, joined. @throws CodecError as {@link encodeProgram}
 */
export function encodeWhole(
  tensor: PlannedTensor,
  look: (run: ElementRun, pass: EncodePass) => PassResult,
  grid: Grid = FLOAT_GRID,
): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(tensor.arrays.reduce((sum, { bytes }) => sum + bytes, 0))
  let at = 0
  const write = (bytes: Uint8Array | null) => {
    if (!bytes) return
    data.set(bytes, at)
    at += bytes.length
  }
  for (const step of encodeProgram(tensor, grid)) {
    if (step instanceof Uint8Array) {
      write(step)
      continue
    }
    let i = 0
    for (const run of step.runs) {
      write(step.take(look(run, step.pass(run, i)), run, i))
      i++
    }
  }
  return data
}
