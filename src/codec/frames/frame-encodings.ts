import { DTYPE_BITS, type Dtype } from '../base/dtypes.ts'
import { CodecError } from '../base/errors.ts'
import type { Compression } from '../base/zstd.ts'
import { joinPlanes, splitPlanes } from './byte-planes.ts'
import { encodeCodedFrame, laneKind, restoreCodedFrame } from './coded-frame.ts'
import type { FrameKernels } from './frame-kernels.ts'
import { encodeSparseFrame, restoreSparseFrame } from './sparse-frame.ts'

export type { FrameKernels }

/** The encodings of a lossless frame; their places are their numbers in a `.wdelta`. Source: `FORMAT.md`. */
export const ENCODINGS = ['copy', 'raw', 'zstd', 'planes', 'xor', 'sparse', 'coded'] as const

export type Encoding = (typeof ENCODINGS)[number]

/** True if decoding a frame takes what was expected of it, and not its record alone. */
export function isPredicted(encoding: Encoding): boolean {
  return encoding !== 'raw' && encoding !== 'zstd' && encoding !== 'planes'
}

export interface EncodedFrame {
  readonly encoding: Encoding
  /** What is stored: the frame itself if the encoding is `raw`, else bytes that are valid until the next frame is encoded. Empty for `copy`. */
  readonly stored: Uint8Array
}

/** zstd level of whole frames. */
const LEVEL = 3
/** A sample tells whether zstd could win: so many runs of so many bytes, and how much worse than the best it may look. */
const SAMPLES = 4
const SAMPLE_BYTES = 2048
const SAMPLE_LEVEL = 1
const TRIAL_MARGIN = 1.15
/** A coded frame shorter than this part of its bytes is taken as it is: zstd, which knows nothing of exponents, is then far behind. */
const CLEAR_WIN_PART = 1 / 2
/** Elements that are worth a list: beyond that the coder is shorter, and looking for them takes time. */
const MAX_LISTED = 4096
/** Blocks of 32 bytes that may differ for a list of elements to be tried, as a part of all. */
const SPARSE_PART = 1 / 32

/** Frames that a prediction is made from for its lineage to be long: what each more of them costs to decode then counts for more than its size … */
const LONG_LINEAGE = 8
/** … as long as a list of elements, which decodes some times faster, has at most so many of them, in at most this part of the blocks … */
const MAX_LISTED_LONG = 32_768
const SPARSE_PART_LONG = 1 / 3
/** … and is at most so many times as long as what is coded. */
const LISTED_RATIO = 3

/** Bytes of an element as encodings see it: 1 where elements are narrower, 4 for C64, which is two float32. */
export function elementWidth(dtype: Dtype): number {
  return dtype === 'C64' ? 4 : Math.max(1, DTYPE_BITS[dtype] >> 3)
}

/**
 * The smallest encoding of a frame (1 to FRAME_BYTES bytes) that was found. `prediction` has the same length; null stands for
 * zeros, where nothing is known of the frame. `lineage` is how many frames the prediction is made from: from 8 on, a list of a few changed
 * elements is taken although it is up to three times as long.
 */
export function encodeFrame(
  tools: FrameKernels,
  dtype: Dtype,
  frame: Uint8Array,
  prediction: Uint8Array | null,
  lineage = 0,
): EncodedFrame {
  const isLong = lineage >= LONG_LINEAGE
  const width = elementWidth(dtype)
  let best: EncodedFrame = { encoding: 'raw', stored: frame }
  const offer = (encoding: Encoding, stored: Uint8Array | null) => {
    if (stored && stored.length < best.stored.length) best = { encoding, stored }
  }
  const expected = prediction ?? new Uint8Array(frame.length)
  const { changed, differing } = tools.machine.lanes.compare(expected, frame)
  if (changed === 0) return { encoding: 'copy', stored: new Uint8Array(0) }
  const changedPart = changed / Math.ceil(frame.length / 32)
  if (changedPart <= (isLong ? SPARSE_PART_LONG : SPARSE_PART) || frame.length <= 4096) {
    const limit = best.stored.length
    const most = isLong ? MAX_LISTED_LONG : MAX_LISTED
    offer('sparse', encodeSparseFrame(frame, expected, { width, differing, limit, most }))
  }
  const isListed = isLong && best.encoding === 'sparse'
  const kind = laneKind(dtype)
  if (kind && prediction) {
    const limit = best.stored.length / (isListed ? LISTED_RATIO : 1)
    offer('coded', encodeCodedFrame(tools, kind, changedPart, limit))
  }
  if (isListed) return best
  if (best.encoding === 'coded' && best.stored.length < frame.length * CLEAR_WIN_PART) return best
  const trial = new ZstdTrial(tools.compression, frame, prediction, width)
  for (const how of ['xor', 'zstd', 'planes'] as const) {
    // Planes of what is no longer random are behind the coder at any rate.
    if (how === 'planes' && best.encoding === 'coded') continue
    offer(how, trial.encode(how, best.stored.length))
  }
  return best
}

/** What zstd makes of a frame, tried on a sample first. */
class ZstdTrial {
  readonly #compression: Compression
  readonly #frame: Uint8Array
  readonly #prediction: Uint8Array | null
  readonly #width: number
  #sample: { frame: Uint8Array; prediction: Uint8Array | null } | null = null

  constructor(
    compression: Compression,
    frame: Uint8Array,
    prediction: Uint8Array | null,
    width: number,
  ) {
    this.#compression = compression
    this.#frame = frame
    this.#prediction = prediction
    this.#width = width
    if (frame.length > SAMPLES * SAMPLE_BYTES * 4) {
      this.#sample = { frame: sampleOf(frame), prediction: prediction && sampleOf(prediction) }
    }
  }

  /** The record, or null where there is none of this kind or a sample looks as if it would be longer than `limit` bytes. */
  encode(how: 'xor' | 'zstd' | 'planes', limit: number): Uint8Array | null {
    if (this.#sample) {
      const { frame, prediction } = this.#sample
      const bytes = this.#prepare(how, frame, prediction)
      if (!bytes) return null
      const sampled = this.#compression.compress(bytes, SAMPLE_LEVEL).length
      if ((sampled / bytes.length) * this.#frame.length > limit * TRIAL_MARGIN) return null
    }
    const bytes = this.#prepare(how, this.#frame, this.#prediction)
    return bytes && this.#compression.compress(bytes, LEVEL)
  }

  #prepare(how: 'xor' | 'zstd' | 'planes', frame: Uint8Array, prediction: Uint8Array | null) {
    if (how === 'zstd') return frame
    if (how === 'xor') return prediction && splitPlanes(frame, this.#width, prediction)
    return this.#width > 1 ? splitPlanes(frame, this.#width) : null
  }
}

/** Runs from all over a frame, one after the other; they begin at multiples of 8 bytes. */
function sampleOf(bytes: Uint8Array): Uint8Array {
  const sample = new Uint8Array(SAMPLES * SAMPLE_BYTES)
  const step = Math.floor(bytes.length / SAMPLES / 8) * 8
  for (let i = 0; i < SAMPLES; i++) {
    sample.set(bytes.subarray(i * step, i * step + SAMPLE_BYTES), i * SAMPLE_BYTES)
  }
  return sample
}

/**
 * Turns the prediction in `frame` into the frame that a record holds.
 * @throws CodecError `raw`, `zstd`, `sparse` or `coded` for a record that is none of its encoding; `encoding` where the dtype has no such encoding
 */
export function restoreFrame(
  tools: FrameKernels,
  dtype: Dtype,
  encoding: Encoding,
  stored: Uint8Array,
  frame: Uint8Array,
): void {
  const { compression } = tools
  const width = elementWidth(dtype)
  switch (encoding) {
    case 'copy':
      return
    case 'raw':
      if (stored.length !== frame.length) {
        const message = `a raw frame: expected ${frame.length} bytes, got ${stored.length}`
        throw new CodecError('delta', 'raw', message)
      }
      frame.set(stored)
      return
    case 'zstd':
      frame.set(compression.decompress(stored, frame.length))
      return
    case 'planes':
      joinPlanes(compression.decompress(stored, frame.length), width, frame, 'set')
      return
    case 'xor':
      joinPlanes(compression.decompress(stored, frame.length), width, frame, 'xor')
      return
    case 'sparse':
      restoreSparseFrame(stored, frame, width)
      return
    case 'coded': {
      const kind = laneKind(dtype)
      if (!kind) throw new CodecError('delta', 'encoding', `a coded frame of ${dtype}`)
      restoreCodedFrame(tools, kind, stored, frame)
    }
  }
}
