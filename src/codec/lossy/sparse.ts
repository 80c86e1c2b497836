import type { ElementRun } from '../base/ranges.ts'
import type { Kept } from '../kernels/machine.ts'
import type { SparseEntry } from '../wdelta/v1/format.ts'
import { runsOf } from './grid.ts'
import type { EncodeProgram, Grid } from './program.ts'
import { HELD_BYTES, indexBytes, select, selectLargest, shareCut } from './select.ts'

/**
 * Keeps the `kept` elements of largest magnitude: int64 indices, float32 values.
 * Source: deltatensors 0.2.0 `compress.py` (`compress_sparse`).
 */
export function* encodeSparse({ count }: SparseEntry, kept: number, grid: Grid): EncodeProgram {
  if (kept === 0) return
  const runs = () => runsOf(count, grid)
  const { cut } = yield* selectLargest(kept, runs)
  const shares = yield* shareCut(cut, runs)
  const positions = (found: Kept, { first }: ElementRun) => indexBytes(found.offsets, first)
  const floats = (found: Kept) => new Uint8Array(found.values.buffer)
  if (kept * 12 > HELD_BYTES) {
    // All indices come before all values: two passes, so that neither array is held.
    yield select(shares, runs, positions)
    yield select(shares, runs, floats)
    return
  }
  const indices: Uint8Array[] = []
  const values: Uint8Array[] = []
  yield select(shares, runs, (found, run) => {
    indices.push(positions(found, run))
    values.push(floats(found))
    return null
  })
  yield* indices
  yield* values
}
