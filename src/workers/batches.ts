import { FRAME_BYTES } from '../codec/base/limits.ts'
import type { DeltaFrame, Segment } from '../codec/plan/segments.ts'

/**
 * Most segments of a batch, the frames that they are made from included: with tensors of a few bytes, or a long lineage, planning all that fits into
 * 2 MiB would hold the event loop for half a second.
 */
const MAX_BATCH_SEGMENTS = 1024

/** Consecutive segments that are produced together. `position`: bytes of the batches before. */
export interface Batch {
  readonly segments: Segment[]
  readonly size: number
  readonly position: number
}

/**
 * Joins neighbouring segments, up to FRAME_BYTES bytes: models have hundreds of tensors of a few KB, and a round trip to a worker for each would
 * cost more than its bytes.
 */
export function* batches(segments: Iterable<Segment>): Generator<Batch> {
  let open: Segment[] = []
  let size = 0
  let position = 0
  let joined = 0
  for (const segment of cutBytes(segments)) {
    const bytes = segmentBytes(segment)
    const weight = segmentsOf([segment])
    const fits = size + bytes <= FRAME_BYTES && joined + weight <= MAX_BATCH_SEGMENTS
    if (open.length > 0 && !fits) {
      yield { segments: open, size, position }
      position += size
      open = []
      size = 0
      joined = 0
    }
    joined += weight
    const last = open.at(-1)
    const merged = last && mergeCopies(last, segment)
    if (merged) open[open.length - 1] = merged
    else open.push(segment)
    size += bytes
  }
  if (open.length > 0) yield { segments: open, size, position }
}

/** The same bytes, with no segment above FRAME_BYTES bytes. Only the header of a model with very many tensors is longer. */
function* cutBytes(segments: Iterable<Segment>): Generator<Segment> {
  for (const segment of segments) {
    if (segment.kind !== 'bytes' || segment.bytes.length <= FRAME_BYTES) {
      yield segment
      continue
    }
    for (let at = 0; at < segment.bytes.length; at += FRAME_BYTES) {
      yield { kind: 'bytes', bytes: segment.bytes.subarray(at, at + FRAME_BYTES) }
    }
  }
}

/** Bytes of the segments of kind `bytes`. */
export function bytesIn(segments: readonly Segment[]): number {
  let bytes = 0
  for (const segment of segments) if (segment.kind === 'bytes') bytes += segment.bytes.length
  return bytes
}

function segmentBytes(segment: Segment): number {
  switch (segment.kind) {
    case 'bytes':
      return segment.bytes.length
    case 'copy':
      return segment.span.end - segment.span.start
    case 'frame':
    case 'lossless':
      return segment.slice.end - segment.slice.start
  }
}

/** The number of these segments and of those that they are made from. A frame that several need counts once. */
export function segmentsOf(segments: readonly Segment[], counted = new Set<DeltaFrame>()): number {
  let sum = segments.length
  for (const segment of segments) {
    if (segment.kind === 'frame') sum += segmentsOf(segment.source, counted)
    if (segment.kind !== 'lossless' || counted.has(segment.frame)) continue
    counted.add(segment.frame)
    sum += segmentsOf(segment.frame.prediction?.source ?? [], counted)
  }
  return sum
}

/** Two copies as one, if they are neighbours in their blob too; else null. */
function mergeCopies(a: Segment, b: Segment): Segment | null {
  if (a.kind !== 'copy' || b.kind !== 'copy') return null
  if (a.span.blob !== b.span.blob || a.span.end !== b.span.start) return null
  return { kind: 'copy', span: { ...a.span, end: b.span.end } }
}
