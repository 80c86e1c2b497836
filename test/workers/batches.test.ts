import t from 'tap'
import { FRAME_BYTES } from '../../src/codec/base/limits.ts'
import type { DeltaFrame, DeltaFrameSegment, Segment } from '../../src/codec/plan/segments.ts'
import { batches, bytesIn, segmentsOf } from '../../src/workers/batches.ts'

/** Segments that are joined at most. */
const MAX_BATCH_SEGMENTS = 1024

const bytes = (length: number): Segment => ({ kind: 'bytes', bytes: new Uint8Array(length) })

const copy = (start: number, end: number, blob = 'b'): Segment => {
  return { kind: 'copy', span: { blob, start, end } }
}

/** All of a lossless frame of `size` bytes, predicted from `source`. */
const lossless = (size: number, source: readonly Segment[] = []): DeltaFrameSegment => {
  return { kind: 'lossless', frame: frameOf(size, source), slice: { start: 0, end: size } }
}

function frameOf(size: number, source: readonly Segment[]): DeltaFrame {
  const predicted = { source, size: source.length, dtype: 'U8' } as const
  const prediction = source.length > 0 ? predicted : null
  return { dtype: 'U8', encoding: 'xor', span: null, size, checksum: 0n, prediction }
}

/** `count` values in float32, made from `source`. */
const floats = (count: number, source: readonly Segment[]): Segment => {
  const frame = { first: 0, count, load: 'BF16', steps: [], store: 'F32' } as const
  return { kind: 'frame', frame, source, spans: [], slice: { start: 0, end: count * 4 } }
}

const sizesOf = (segments: Iterable<Segment>) => [...batches(segments)].map(({ size }) => size)

t.test('neighbours are joined as long as they fit in a frame', t => {
  t.strictSame(sizesOf([]), [])
  t.strictSame(sizesOf([bytes(1), bytes(2), copy(0, 3)]), [6])
  const half = FRAME_BYTES / 2
  t.strictSame(sizesOf([bytes(half), copy(0, half)]), [FRAME_BYTES])
  t.strictSame(sizesOf([bytes(half), copy(0, half + 1)]), [half, half + 1])
  t.strictSame(sizesOf([copy(0, FRAME_BYTES), bytes(0), bytes(1)]), [FRAME_BYTES, 1])
  t.end()
})

t.test('a batch says where its first byte stands in what all of them give', t => {
  const made = [...batches([copy(0, FRAME_BYTES), bytes(5), copy(9, 9 + FRAME_BYTES), bytes(1)])]
  t.strictSame(
    made.map(({ position, size }) => [position, size]),
    [
      [0, FRAME_BYTES],
      [FRAME_BYTES, 5],
      [FRAME_BYTES + 5, FRAME_BYTES],
      [2 * FRAME_BYTES + 5, 1],
    ],
  )
  t.end()
})

t.test('a segment counts with the part of it that is wanted', t => {
  const part = { ...lossless(FRAME_BYTES), slice: { start: 10, end: 17 } }
  t.strictSame(sizesOf([part, floats(2, [copy(0, 4)])]), [7 + 8])
  t.end()
})

t.test('copies of neighbours in one blob become one, and no others', t => {
  const segments = [copy(0, 4), copy(4, 8), copy(9, 10), copy(10, 12, 'other'), copy(12, 13)]
  const [batch] = batches(segments)
  t.strictSame(batch!.segments, [copy(0, 8), copy(9, 10), copy(10, 12, 'other'), copy(12, 13)])
  t.strictSame(segments[0], copy(0, 4), 'the plan is as it was')
  const apart = [...batches([copy(0, 4), bytes(1), copy(4, 8)])]
  t.equal(apart[0]!.segments.length, 3, 'what stands between two keeps them apart')
  const full = [...batches([copy(0, FRAME_BYTES), copy(FRAME_BYTES, FRAME_BYTES + 1)])]
  t.equal(full.length, 2, 'nor are they joined beyond a frame')
  t.end()
})

t.test('bytes longer than a frame are cut, and nothing of them is copied', t => {
  const header = new Uint8Array(2 * FRAME_BYTES + 3)
  const made = [...batches([{ kind: 'bytes', bytes: header }, bytes(1)])]
  t.strictSame(
    made.map(({ size }) => size),
    [FRAME_BYTES, FRAME_BYTES, 4],
  )
  const [first] = made[0]!.segments
  t.equal(first!.kind === 'bytes' && first!.bytes.buffer, header.buffer)
  t.end()
})

t.test('a batch has a bounded number of segments, with those that they are made from', t => {
  const count = (segments: Iterable<Segment>) =>
    [...batches(segments)].map(batch => segmentsOf(batch.segments))
  const apart = Array.from({ length: MAX_BATCH_SEGMENTS + 1 }, (_, i) => copy(i * 8, i * 8 + 4))
  t.strictSame(count(apart), [MAX_BATCH_SEGMENTS, 1])
  const made = Array.from({ length: 4 }, (_, i) => lossless(1, apart.slice(0, 300 + i)))
  t.strictSame(count(made), [301 + 302 + 303, 304])
  const deep = [lossless(1, apart), bytes(1)]
  t.strictSame(count(deep), [MAX_BATCH_SEGMENTS + 2, 1], 'one that is too much alone is a batch')
  t.end()
})

t.test('batches are made as they are asked for', t => {
  let drawn = 0
  const segments = (function* () {
    for (; drawn < 100; drawn++) yield copy(0, FRAME_BYTES, String(drawn))
  })()
  const some = batches(segments)
  some.next()
  some.next()
  t.ok(drawn <= 2, `${drawn} segments for two batches`)
  t.end()
})

t.test('segments are counted with those that they are made from, a shared frame once', t => {
  t.equal(segmentsOf([]), 0)
  t.equal(segmentsOf([bytes(1), copy(0, 1)]), 2)
  t.equal(segmentsOf([floats(2, [copy(0, 2), copy(4, 6)])]), 3)
  const frame = frameOf(8, [copy(0, 4), copy(8, 12)])
  const slices = [0, 1, 2].map((start): Segment => {
    return { kind: 'lossless', frame, slice: { start, end: start + 1 } }
  })
  t.equal(segmentsOf(slices), 3 + 2)
  t.equal(segmentsOf([lossless(8, slices)]), 1 + 3 + 2)
  t.end()
})

t.test('bytes in segments are those that come with them', t => {
  t.equal(bytesIn([bytes(3), copy(0, 100), bytes(4), lossless(50)]), 7)
  t.equal(bytesIn([]), 0)
  t.end()
})
