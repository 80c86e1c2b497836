import { CodecError, namedTensor } from '../base/errors.ts'
import type { ElementRun } from '../base/ranges.ts'
import type { QuantizedEntry } from '../wdelta/v1/format.ts'
import { nodeElements, runAround, runsOf } from './grid.ts'
import type { PassResults } from './passes.ts'
import type { EncodeProgram, Grid, Stage } from './program.ts'

/**
 * One sign per element and per row the mean magnitude as float16.
 * Source: deltatensors 0.2.0 `compress.py` (`compress_quantized`).
 * @throws CodecError `not-finite` if the mean of a row is NaN or beyond float16
 */
export function* encodeQuantized(entry: QuantizedEntry, grid: Grid): EncodeProgram {
  const { count, columns } = entry
  const whole = count <= grid.run
  if (whole || columns <= nodeElements(grid)) yield rowsInRuns(entry, grid)
  else yield rowsOverRuns(entry, grid)
  yield {
    runs: runsOf(count, grid),
    pass: () => ({ pass: 'signs' }),
    take: result => (result as PassResults['signs']).signs,
  }
}

/** Sums of rows that fit into a run, as many in each run as there is room for. */
function rowsInRuns(entry: QuantizedEntry, grid: Grid): Stage {
  const { count, columns } = entry
  const rows = count / columns
  const perRun = count <= grid.run ? rows : Math.floor(nodeElements(grid) / columns)
  const from = (i: number) => i * perRun * columns
  const to = (i: number) => Math.min(from(i) + perRun * columns, count)
  return {
    runs: Array.from({ length: Math.ceil(rows / perRun) }, (_, i) =>
      runAround(from(i), to(i), count, grid),
    ),
    pass: ({ first }, i) => ({
      pass: 'sums',
      from: from(i) - first,
      length: columns,
      times: (to(i) - from(i)) / columns,
    }),
    take: result => scales(entry, (result as PassResults['sums']).sums),
  }
}

/**
 * Sums of rows longer than a run. numpy's pairwise sum is a tree whose shape follows from the row's length: its lower parts are summed by
 * passes, and their sums are joined here.
 */
function rowsOverRuns(entry: QuantizedEntry, grid: Grid): Stage {
  const { count, columns } = entry
  const nodes = [...treeNodes(columns, nodeElements(grid))]
  const runs = function* (): Generator<ElementRun> {
    for (let row = 0; row < count; row += columns) {
      for (const { first, count: length } of nodes) {
        yield runAround(row + first, row + first + length, count, grid)
      }
    }
  }
  const nodeOf = (i: number) => nodes[i % nodes.length]!
  const rowOf = (i: number) => Math.floor(i / nodes.length) * columns
  const sums: number[] = []
  return {
    runs: runs(),
    pass: ({ first }, i) => {
      const node = nodeOf(i)
      return { pass: 'sums', from: rowOf(i) + node.first - first, length: node.count, times: 1 }
    },
    take: result => {
      sums.push((result as PassResults['sums']).sums[0]!)
      if (sums.length < nodes.length) return null
      const sum = joinTree(columns, nodeElements(grid), sums.splice(0).values())
      return scales(entry, Float32Array.of(sum))
    },
  }
}

/** Where numpy's pairwise sum splits `n` elements. Source: numpy `loops_utils.h.src`, `pairwise_sum`. */
function splitAt(n: number): number {
  const half = Math.floor(n / 2)
  return half - (half % 8)
}

/** The largest parts of the tree over `n` elements that have at most `most` elements. */
function* treeNodes(n: number, most: number, first = 0): Generator<ElementRun> {
  if (n <= most) {
    yield { first, count: n }
    return
  }
  const left = splitAt(n)
  yield* treeNodes(left, most, first)
  yield* treeNodes(n - left, most, first + left)
}

function joinTree(n: number, most: number, sums: Iterator<number>): number {
  if (n <= most) return sums.next().value!
  const left = splitAt(n)
  const sum = joinTree(left, most, sums)
  return Math.fround(sum + joinTree(n - left, most, sums))
}

/** Means as float16: in the reference both operands and the quotient are float32. */
function scales({ name, columns }: QuantizedEntry, sums: Float32Array): Uint8Array {
  const divisor = Math.fround(columns)
  const means = Float16Array.from(sums, sum => Math.fround(sum / divisor))
  if (means.every(Number.isFinite)) return new Uint8Array(means.buffer)
  throw new CodecError(
    'encode',
    'not-finite',
    `${namedTensor(name)}: the mean magnitude of a row is not a finite float16; sparse or lossless can hold it`,
  )
}
