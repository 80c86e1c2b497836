import type { Dtype } from '../base/dtypes.ts'
import { applySteps, type FloatFrame } from '../frames/float-frame.ts'
import type { Cut, Extremes, FrameMachine, Ranks } from '../kernels/machine.ts'

/** One pass over the delta of a frame. Plain data: it crosses to a worker as it is. */
export type EncodePass =
  /** Counts of the upper 16 of the 31 magnitude bits. */
  | { readonly pass: 'high' }
  /** Counts of the lower 15 bits, by sign, of magnitudes whose upper bits are `high`. */
  | { readonly pass: 'low'; readonly high: number }
  /** How many magnitudes are above a threshold, and how many equal it. */
  | { readonly pass: 'rank'; readonly threshold: number }
  /** The elements that a cut keeps. */
  | { readonly pass: 'select'; readonly cut: Cut }
  /** The elements that a cut keeps, and 4-bit codes of the others. */
  | {
      readonly pass: 'int4'
      readonly cut: Cut
      readonly min: number
      readonly range: number
      readonly nibble: 0 | 1
    }
  /** Sums of the magnitudes of `times` runs of `length` elements, the first `from` elements into the frame. */
  | {
      readonly pass: 'sums'
      readonly from: number
      readonly length: number
      readonly times: number
    }
  /** One bit per element: not negative. */
  | { readonly pass: 'signs' }

/** What each pass gives; the arrays are the caller's. */
export interface PassResults {
  /** 65,536 bins. */
  readonly high: { readonly counts: Uint32Array<ArrayBuffer> }
  /** 32,768 bins each; `below`: the signed extremes of the values with smaller upper bits. */
  readonly low: {
    readonly positive: Uint32Array<ArrayBuffer>
    readonly negative: Uint32Array<ArrayBuffer>
    readonly below: Extremes
  }
  readonly rank: Ranks
  /** `offsets` count from the frame's start. */
  readonly select: {
    readonly offsets: Uint32Array<ArrayBuffer>
    readonly values: Float32Array<ArrayBuffer>
  }
  readonly int4: {
    readonly offsets: Uint32Array<ArrayBuffer>
    readonly values: Float32Array<ArrayBuffer>
    readonly packed: Uint8Array<ArrayBuffer>
  }
  readonly sums: { readonly sums: Float32Array<ArrayBuffer> }
  readonly signs: { readonly signs: Uint8Array<ArrayBuffer> }
}

export type PassResult = PassResults[EncodePass['pass']]

/** Bins of the upper and of the lower magnitude bits. */
export const HIGH_BINS = 65_536
export const LOW_BINS = 32_768

/**
 * Loads the delta of a frame into the machine: f32(tuned) - f32(parent). `parts` are those of the parent's frame, `tuned` are the
 * fine-tune's values of the same elements.
 */
export function loadDelta(
  machine: FrameMachine,
  frame: FloatFrame,
  parts: readonly Uint8Array[],
  tunedDtype: Dtype,
  tuned: Uint8Array,
): void {
  applySteps(machine, frame, parts)
  machine.subtractFrom(tunedDtype, tuned)
}

/** Takes one pass over the delta in the machine, and leaves it there. */
export function runPass(machine: FrameMachine, pass: EncodePass): PassResult {
  switch (pass.pass) {
    case 'high': {
      const counts = new Uint32Array(HIGH_BINS)
      machine.histogramHigh(counts)
      return { counts }
    }
    case 'low': {
      const positive = new Uint32Array(LOW_BINS)
      const negative = new Uint32Array(LOW_BINS)
      return { positive, negative, below: machine.histogramLow(pass.high, positive, negative) }
    }
    case 'rank':
      return machine.countAbove(pass.threshold)
    case 'select':
      return machine.selectTop(pass.cut)
    case 'int4':
      return machine.quantizeInt4({ ...pass.cut, ...pass })
    case 'sums': {
      const { from, length, times } = pass
      const sums = new Float32Array(times)
      for (let i = 0; i < times; i++) sums[i] = machine.pairwiseAbsSum(from + i * length, length)
      return { sums }
    }
    case 'signs':
      return { signs: machine.packSigns(0) }
  }
}
