import { DTYPE_BITS, type Dtype } from '../base/dtypes.ts'
import { CodecError } from '../base/errors.ts'
import type { Compression } from '../base/zstd.ts'
import { joinPlanes, splitPlanes } from './byte-planes.ts'
import { encodeCodedFrame, laneKind, restoreCodedFrame } from './coded-frame.ts'
import type { FrameKernels } from './frame-kernels.ts'
import { encodeSparseFrame, restoreSparseFrame } from './sparse-frame.ts'

export type { FrameKernels }

/** The encodings of a frame, in the order of their numbers in a `.wdelta`. Source: `FORMAT.md`. */
export const ENCODINGS = ['copy', 'raw', 'zstd', 'planes', 'xor', 'sparse', 'coded'] as const

export type Encoding = (typeof ENCODINGS)[number]

/** True if a frame of this encoding is decoded from its prediction, not from its record alone. */
export function isPredicted(encoding: Encoding): boolean {
  return encoding !== 'raw' && encoding !== 'zstd' && encoding !== 'planes'
}

export interface EncodedFrame {
  readonly encoding: Encoding
  /** The record: the frame itself if the encoding is `raw`, empty for `copy`, else bytes that are valid until the next frame is encoded. */
  readonly stored: Uint8Array
}

/** zstd level of whole frames. */
const LEVEL = 3
/** Runs of a frame, and bytes of each, in the sample that decides whether zstd is tried. */
const SAMPLES = 4
const SAMPLE_BYTES = 2048
/** zstd level of a sample. */
const SAMPLE_LEVEL = 1
/** How much longer than the best record so far, as a factor, zstd may look on its sample and still be tried. */
const TRIAL_MARGIN = 1.15
/** Share of a frame's bytes below which its `coded` record is taken without trying zstd, which is then far behind. */
const CLEAR_WIN_PART = 1 / 2
/** Most elements of a `sparse` record: with more, `coded` is shorter, and finding them takes time. */
const MAX_LISTED = 4096
/** Greatest share of blocks of 32 bytes that differ for which a `sparse` record is tried. */
const SPARSE_PART = 1 / 32

/** Frames behind a prediction from which on a lineage is long: a record that decodes fast, as `sparse` does, is then worth more than a short one. */
const LONG_LINEAGE = 8
/** Most elements of a `sparse` record on a long lineage, and the greatest share of blocks that differ. */
const MAX_LISTED_LONG = 32_768
const SPARSE_PART_LONG = 1 / 3
/** How many times as long as the `coded` record a `sparse` one on a long lineage may be. */
const LISTED_RATIO = 3

/** Bytes of an element for encodings: 1 for narrower dtypes, 4 for C64, which is two float32. */
export function elementWidth(dtype: Dtype): number {
  return dtype === 'C64' ? 4 : Math.max(1, DTYPE_BITS[dtype] >> 3)
}

/**
 * The shortest record of a frame (1 to FRAME_BYTES bytes) that was found. `prediction` has the same length; null stands for zeros: nothing
 * predicts the frame. `lineage` is the number of frames that the prediction is made from: from 8 on, a `sparse` record is taken even if it
 * is up to three times as long.
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
    // Where the coder wins, its record is shorter than that of planes.
    if (how === 'planes' && best.encoding === 'coded') continue
    offer(how, trial.encode(how, best.stored.length))
  }
  return best
}

/** The records that zstd gives of a frame, each tried on a sample first. */
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

  /** The record; null if the frame has none of this kind, or if its sample promises more than `limit` bytes. */
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

/** Runs from all over a frame, joined. Each begins at a multiple of 8 bytes. */
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
 * @throws CodecError `raw`, `zstd`, `sparse` or `coded` for a record that is not of its encoding; `encoding` for a dtype that has no such encoding
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
