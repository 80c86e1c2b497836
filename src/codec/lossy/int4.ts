import { CodecError, namedTensor } from '../base/errors.ts'
import type { ElementRun } from '../base/ranges.ts'
import type { Extremes, Kept } from '../kernels/machine.ts'
import type { Int4Entry } from '../wdelta/v1/format.ts'
import { runsOf } from './grid.ts'
import type { PassResults } from './passes.ts'
import type { EncodeProgram, Grid, Stage } from './program.ts'
import { HELD_BYTES, indexBytes, type RunCut, select, selectLargest, shareCut } from './select.ts'

/** Range of values below which the reference stores one value for all. */
const MIN_RANGE = 1e-8

interface Scalars {
  readonly min: number
  readonly range: number
  readonly scale: Float16Array<ArrayBuffer>
  readonly zeroPoint: Float16Array<ArrayBuffer>
}

/**
 * Keeps the largest magnitudes as float16 and codes the rest in 4 bits between its extremes.
 * Source: deltatensors 0.2.0 `compress_int4.py`.
 * @throws CodecError `not-finite` if the scale or the zero point is NaN or infinite: the reference would lose the whole tensor
 */
export function* encodeInt4(entry: Int4Entry, grid: Grid): EncodeProgram {
  const { count, outliers } = entry
  const runs = () => runsOf(count, grid)
  const { cut, rest } = yield* selectLargest(outliers, runs)
  const scalars = scalarsOf(entry.name, rest)
  const shares = yield* shareCut(cut, runs)
  const stage = codes(shares, scalars, runs, count - outliers)
  const bytes = outliers * 10 + (count - outliers) / 2
  const indices: Uint8Array[] = []
  const values: Uint8Array[] = []
  const packed: Uint8Array[] = []
  if (bytes <= HELD_BYTES) {
    yield stage((kept, run, codes) => {
      indices.push(indexBytes(kept.offsets, run.first))
      values.push(halfBytes(kept.values))
      packed.push(codes)
      return null
    })
  } else {
    yield select(shares, runs, (kept, { first }) => indexBytes(kept.offsets, first))
  }
  yield* indices
  if (bytes <= HELD_BYTES) yield* values
  else yield select(shares, runs, kept => halfBytes(kept.values))
  yield new Uint8Array(scalars.scale.buffer)
  yield new Uint8Array(scalars.zeroPoint.buffer)
  if (bytes <= HELD_BYTES) yield* packed
  else yield stage((_kept, _run, codes) => codes)
}

/** Makes the stage of the 4-bit codes. A run may end in the middle of a byte: that half goes to the next run. */
function codes(
  shares: readonly RunCut[],
  { min, range }: Scalars,
  runs: () => Iterable<ElementRun>,
  total: number,
): (use: (kept: Kept, run: ElementRun, codes: Uint8Array) => Uint8Array | null) => Stage {
  let carry = 0
  const nibbleOf = ({ first }: ElementRun, i: number) => first - shares[i]!.before
  const joined = ({ packed, offsets }: PassResults['int4'], run: ElementRun, i: number) => {
    if (packed.length > 0) packed[0]! |= carry
    const end = nibbleOf(run, i) + run.count - offsets.length
    const open = end % 2 === 1 && end < total
    carry = open ? packed[packed.length - 1]! : 0
    return open ? packed.subarray(0, -1) : packed
  }
  return use => ({
    runs: runs(),
    pass: (run, i) => {
      const nibble = nibbleOf(run, i) % 2 === 0 ? 0 : 1
      return { pass: 'int4', cut: shares[i]!.cut, min, range, nibble }
    },
    take: (result, run, i) => {
      const coded = result as PassResults['int4']
      return use(coded, run, joined(coded, run, i))
    },
  })
}

function scalarsOf(name: string, { min, max }: Extremes): Scalars {
  const range = max - min
  const scale = Float16Array.of(range < MIN_RANGE ? 1 : range / 15)
  const zeroPoint = Float16Array.of(min)
  if (Number.isFinite(scale[0]!) && Number.isFinite(zeroPoint[0]!)) {
    return { min, range, scale, zeroPoint }
  }
  throw new CodecError(
    'encode',
    'not-finite',
    `${namedTensor(name)}: its changes outside the outliers lie between ${min} and ${max}, which int4 cannot scale; sparse or lossless can hold them`,
  )
}

function halfBytes(values: Float32Array): Uint8Array {
  return new Uint8Array(Float16Array.from(values).buffer)
}
