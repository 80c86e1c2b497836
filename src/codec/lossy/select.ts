import type { ElementRun } from '../base/ranges.ts'
import type { Cut, Extremes, Kept } from '../kernels/machine.ts'
import { HIGH_BINS, LOW_BINS, type PassResults } from './passes.ts'
import type { Stage } from './program.ts'

/** Most bytes of a tensor's array data that an encoder holds; with more, each array takes a pass of its own. */
export const HELD_BYTES = 16 * 1024 * 1024

/** A cut, and the signed extremes of the values that it does not keep: NaN if one of these is NaN. */
export interface Selection {
  readonly cut: Cut
  readonly rest: Extremes
}

/**
 * Finds the `kept`-th largest magnitude exactly, in two passes of counting: nothing is sorted, and no values are held. NaNs count as
 * largest, as in numpy. Of magnitudes that equal the threshold the positive ones are kept first, then the negative ones, each in the order
 * of their positions. argpartition leaves this order open; this one needs no third pass to find the extremes of the rest.
 * Source: deltatensors 0.2.0 `compress_int4.py`, `compress.py` (`argpartition` of the magnitudes).
 */
export function* selectLargest(
  kept: number,
  runs: () => Iterable<ElementRun>,
): Generator<Stage, Selection, void> {
  const counts = new Float64Array(HIGH_BINS)
  yield {
    runs: runs(),
    pass: () => ({ pass: 'high' }),
    take: result => {
      addCounts(counts, (result as PassResults['high']).counts)
      return null
    },
  }
  const high = binOf(counts, kept)
  const positive = new Float64Array(LOW_BINS)
  const negative = new Float64Array(LOW_BINS)
  let below: Extremes = { min: Infinity, max: -Infinity }
  yield {
    runs: runs(),
    pass: () => ({ pass: 'low', high: high.bin }),
    take: result => {
      const low = result as PassResults['low']
      addCounts(positive, low.positive)
      addCounts(negative, low.negative)
      below = joinExtremes(below, low.below)
      return null
    },
  }
  const both = positive.map((n, bin) => n + negative[bin]!)
  const low = binOf(both, kept - high.above)
  const ties = kept - high.above - low.above
  const takePositive = Math.min(ties, positive[low.bin]!)
  const takeNegative = ties - takePositive
  positive[low.bin]! -= takePositive
  negative[low.bin]! -= takeNegative
  const rest = joinExtremes(below, restExtremes(positive, negative, high.bin, low.bin))
  return {
    cut: { threshold: high.bin * LOW_BINS + low.bin, takePositive, takeNegative },
    rest,
  }
}

/** The part of a cut that falls to one run, and the number of elements kept before that run. */
export interface RunCut {
  readonly cut: Cut
  readonly before: number
}

/** Divides a cut among the runs, by one more pass of counting. */
export function* shareCut(
  { threshold, takePositive, takeNegative }: Cut,
  runs: () => Iterable<ElementRun>,
): Generator<Stage, RunCut[], void> {
  const shares: RunCut[] = []
  let before = 0
  let positive = takePositive
  let negative = takeNegative
  yield {
    runs: runs(),
    pass: () => ({ pass: 'rank', threshold }),
    take: result => {
      const { above, positiveTies, negativeTies } = result as PassResults['rank']
      const cut = {
        threshold,
        takePositive: Math.min(positive, positiveTies),
        takeNegative: Math.min(negative, negativeTies),
      }
      shares.push({ cut, before })
      positive -= cut.takePositive
      negative -= cut.takeNegative
      before += above + cut.takePositive + cut.takeNegative
      return null
    },
  }
  return shares
}

/** A stage that gives `use` what the cut keeps of each run. */
export function select(
  shares: readonly RunCut[],
  runs: () => Iterable<ElementRun>,
  use: (kept: Kept, run: ElementRun) => Uint8Array | null,
): Stage {
  return {
    runs: runs(),
    pass: (_run, i) => ({ pass: 'select', cut: shares[i]!.cut }),
    take: (result, run) => use(result as PassResults['select'], run),
  }
}

function addCounts(into: Float64Array, counts: Uint32Array): void {
  for (let i = 0; i < into.length; i++) into[i]! += counts[i]!
}

/** The bin that holds the `rank`-th largest, and how many lie in the bins above it. */
function binOf(counts: Float64Array, rank: number): { bin: number; above: number } {
  let above = 0
  let bin = counts.length - 1
  while (bin > 0 && above + counts[bin]! < rank) above += counts[bin--]!
  return { bin, above }
}

/** Signed extremes of the values in the bins up to `low`, whose upper bits are `high`. */
function restExtremes(
  positive: Float64Array,
  negative: Float64Array,
  high: number,
  low: number,
): Extremes {
  let extremes: Extremes = { min: Infinity, max: -Infinity }
  for (let bin = 0; bin <= low; bin++) {
    const magnitude = floatOf(high * LOW_BINS + bin)
    if (positive[bin]! > 0) extremes = joinExtremes(extremes, { min: magnitude, max: magnitude })
    if (negative[bin]! > 0) extremes = joinExtremes(extremes, { min: -magnitude, max: -magnitude })
  }
  return extremes
}

/** The extremes of both sets. Math.min and Math.max give NaN if one is NaN, as numpy's do. */
function joinExtremes(a: Extremes, b: Extremes): Extremes {
  return { min: Math.min(a.min, b.min), max: Math.max(a.max, b.max) }
}

function floatOf(bits: number): number {
  return new Float32Array(new Uint32Array([bits]).buffer)[0]!
}

/** Positions of the kept elements in the tensor, as int64. */
export function indexBytes(offsets: Uint32Array, first: number): Uint8Array {
  const words = new Uint32Array(offsets.length * 2)
  for (let i = 0; i < offsets.length; i++) {
    const position = first + offsets[i]!
    words[i * 2] = position
    words[i * 2 + 1] = Math.floor(position / 2 ** 32)
  }
  return new Uint8Array(words.buffer)
}
