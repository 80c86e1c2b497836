import t from 'tap'
import { BLOCK_BYTES } from '../../src/codec/base/block-sums.ts'
import type { ByteRange, Span } from '../../src/codec/base/ranges.ts'
import type { DeltaFrame, FloatFrameSegment, Segment } from '../../src/codec/plan/segments.ts'
import type { ByteSource } from '../../src/workers/byte-source.ts'
import { TaskParts } from '../../src/workers/task-parts.ts'
import { sourceOf } from '../support/engine.ts'

/** Bytes of the blobs whose checksums are known. */
const SIZE = 2 * BLOCK_BYTES + 100
const SUMS = { size: SIZE, sums: BigUint64Array.of(10n, 11n, 12n) }

const copy = (start: number, end: number, blob = 'b'): Segment => {
  return { kind: 'copy', span: { blob, start, end } }
}

/** Parts over blobs that are fetched, unless `members` says otherwise; `fetched` lists what was asked for. */
function partsOver(members: Partial<ByteSource> = {}, signal?: AbortSignal) {
  const fetched: Span[] = []
  const signals: unknown[] = []
  const fetch: ByteSource['fetch'] = async (span, signal) => {
    fetched.push(span)
    signals.push(signal)
    return new Uint8Array(span.end - span.start).fill(fetched.length)
  }
  const read = () => Promise.reject(new Error('only what is fetched goes with a task'))
  const parts = new TaskParts(sourceOf(read, { fetch, ...members }), signal)
  return { parts, fetched, signals }
}

/** All of a lossless frame of 8 bytes. */
function wholeOf(frame: DeltaFrame, slice: ByteRange = { start: 0, end: 8 }): Segment {
  return { kind: 'lossless', frame, slice }
}

function frameOf(span: Span | null, source: readonly Segment[]): DeltaFrame {
  const prediction = { source, size: 8, dtype: 'BF16' } as const
  return { dtype: 'BF16', encoding: 'xor', span, size: 8, checksum: 5n, prediction }
}

t.test('what is fetched goes with the task, in the order in which it was asked for', async t => {
  const signal = new AbortController().signal
  const { parts, fetched, signals } = partsOver({}, signal)
  const [first, second] = [
    parts.part({ blob: 'b', start: 5, end: 9 }),
    parts.part({ blob: 'c', start: 7, end: 8 }),
  ]
  t.strictSame(first, { buffer: 0, from: 5, start: 5, end: 9, check: null })
  t.strictSame(second, { buffer: 1, from: 7, start: 7, end: 8, check: null })
  t.ok(parts.isFetching)
  const buffers = await parts.buffers()
  t.strictSame(buffers, [new Uint8Array(4).fill(1), Uint8Array.of(2)])
  t.strictSame(fetched, [
    { blob: 'b', start: 5, end: 9 },
    { blob: 'c', start: 7, end: 8 },
  ])
  t.strictSame(signals, [signal, signal])
})

t.test('what a worker reads itself is named, and nothing goes with it', async t => {
  const { parts, fetched } = partsOver({ locate: blob => `/store/${blob}` })
  const part = parts.part({ blob: 'b', start: 5, end: 9 })
  t.strictSame(part, { path: '/store/b', start: 5, end: 9, check: null })
  t.notOk(parts.isFetching)
  t.strictSame([await parts.buffers(), fetched], [[], []])
})

t.test('bytes with checksums are fetched in whole blocks, and checked as such', async t => {
  const { parts, fetched } = partsOver({ checksumsOf: () => SUMS })
  const start = BLOCK_BYTES + 5
  const part = parts.part({ blob: 'b', start, end: SIZE })
  const blocks = { start: BLOCK_BYTES, end: SIZE }
  const check = { blob: 'b', ...blocks, sums: BigUint64Array.of(11n, 12n) }
  t.strictSame(part, { buffer: 0, from: BLOCK_BYTES, start, end: SIZE, check })
  t.strictSame(fetched, [{ blob: 'b', ...blocks }])
  const [buffer] = await parts.buffers()
  t.equal((buffer as Uint8Array).length, BLOCK_BYTES + 100)
})

t.test('a worker that reads itself reads the part alone, and is told the blocks', async t => {
  const { parts } = partsOver({ checksumsOf: () => SUMS, locate: () => '/store/b' })
  const part = parts.part({ blob: 'b', start: 5, end: 6 })
  const check = { blob: 'b', start: 0, end: BLOCK_BYTES, sums: BigUint64Array.of(10n) }
  t.strictSame(part, { path: '/store/b', start: 5, end: 6, check })
})

t.test('no bytes at all are not fetched', async t => {
  for (const checksumsOf of [() => null, () => SUMS]) {
    const { parts, fetched } = partsOver({ checksumsOf })
    t.match(parts.part({ blob: 'b', start: 7, end: 7 }), { buffer: 0, start: 7, end: 7 })
    t.strictSame([await parts.buffers(), fetched], [[new Uint8Array(0)], []])
  }
})

t.test('bytes that are here already go with the task as they are', async t => {
  const { parts } = partsOver()
  parts.part({ blob: 'b', start: 0, end: 2 })
  const own = Uint8Array.of(1, 2, 3)
  t.strictSame(parts.buffer(own), { buffer: 1, from: 0, start: 0, end: 3, check: null })
  const buffers = await parts.buffers()
  t.equal(buffers[1], own)
})

t.test('a path is asked for once where neighbours are of one blob', t => {
  const located: string[] = []
  const locate = (blob: string) => {
    located.push(blob)
    return blob === 'far' ? null : blob
  }
  const { parts } = partsOver({ locate })
  for (const blob of ['a', 'a', 'far', 'far', 'a']) parts.part({ blob, start: 0, end: 1 })
  t.strictSame(located, ['a', 'far', 'a'])
  t.end()
})

t.test('a read that fails is what the buffers reject with, and never goes unhandled', async t => {
  const { parts } = partsOver({ fetch: () => Promise.reject(new Error('gone')) })
  parts.part({ blob: 'b', start: 0, end: 1 })
  // A rejection that nobody handled would end the process in this turn.
  await new Promise(resolve => setImmediate(resolve))
  await t.rejects(parts.buffers(), { message: 'gone' })
})

t.test('bytes of many segments lie in one buffer, which is none of the plan', t => {
  const { parts } = partsOver()
  const header = Uint8Array.of(0, 1, 2, 3, 4)
  const pieces = parts.pieces([
    { kind: 'bytes', bytes: header.subarray(1, 3) },
    copy(0, 4),
    { kind: 'bytes', bytes: header.subarray(3) },
  ])
  t.match(pieces, [{ kind: 'bytes' }, { kind: 'copy', size: 4 }, { kind: 'bytes' }])
  const bytes = pieces.flatMap(piece => (piece.kind === 'bytes' ? [piece.bytes] : []))
  t.strictSame(bytes, [Uint8Array.of(1, 2), Uint8Array.of(3, 4)])
  t.equal(bytes[0]!.buffer, bytes[1]!.buffer)
  t.equal(bytes[0]!.buffer.byteLength, 4, 'with room for nothing else')
  t.end()
})

t.test('a float frame has the parts of its steps in their order', t => {
  const { parts, fetched } = partsOver()
  const frame = { first: 10, count: 2, load: 'BF16', steps: [], store: 'F32' } as const
  const segment: FloatFrameSegment = {
    kind: 'frame',
    frame,
    source: [copy(20, 24)],
    spans: [
      { blob: 'v1', start: 100, end: 108 },
      { blob: 'v1', start: 50, end: 52 },
    ],
    slice: { start: 4, end: 8 },
  }
  const [piece] = parts.pieces([segment])
  t.match(piece, {
    kind: 'frame',
    frame,
    source: [{ kind: 'copy', part: { buffer: 0 }, size: 4 }],
    parts: [
      { buffer: 1, start: 100, end: 108 },
      { buffer: 2, start: 50, end: 52 },
    ],
    slice: { start: 4, end: 8 },
  })
  t.strictSame(
    fetched.map(({ blob, start }) => [blob, start]),
    [
      ['b', 20],
      ['v1', 100],
      ['v1', 50],
    ],
  )
  const stored = { kind: 'stored', dtype: 'F32', span: { blob: 'up', start: 8, end: 108 } } as const
  const tuned = parts.tunedFrame(segment, stored)
  t.match(tuned, { frame, tunedDtype: 'F32', tuned: { start: 8 + 40, end: 8 + 48 } })
  t.end()
})

t.test('a frame that several want is one object, and its record is read once', t => {
  const { parts, fetched } = partsOver()
  const below = frameOf({ blob: 'd1', start: 20, end: 30 }, [copy(0, 8)])
  const above = frameOf({ blob: 'd2', start: 40, end: 50 }, [
    wholeOf(below, { start: 0, end: 4 }),
    wholeOf(below, { start: 4, end: 8 }),
  ])
  const pieces = [
    ...parts.pieces([wholeOf(above, { start: 0, end: 2 })]),
    ...parts.pieces([wholeOf(above, { start: 2, end: 8 }), wholeOf(below)]),
  ]
  t.match(pieces, [
    { kind: 'lossless', slice: { start: 0, end: 2 } },
    { kind: 'lossless', slice: { start: 2, end: 8 } },
    { kind: 'lossless', slice: { start: 0, end: 8 } },
  ])
  const frames = pieces.flatMap(piece => (piece.kind === 'lossless' ? [piece.frame] : []))
  t.equal(frames[0], frames[1])
  const within = frames[0]!.prediction!.source.map(piece => 'frame' in piece && piece.frame)
  t.strictSame(new Set(within), new Set([frames[2]]))
  t.equal(within[0], frames[2])
  t.strictSame(fetched.map(({ blob }) => blob).sort(), ['b', 'd1', 'd2'])
  t.end()
})

t.test('a frame keeps what it is; without a record or a prediction it has none', t => {
  const { parts, fetched } = partsOver()
  const bare: DeltaFrame = { ...frameOf(null, []), prediction: null }
  const [piece] = parts.pieces([wholeOf(bare)])
  const frame = { dtype: 'BF16', encoding: 'xor', size: 8, checksum: 5n } as const
  t.strictSame(piece, {
    kind: 'lossless',
    frame: { ...frame, record: null, prediction: null },
    slice: { start: 0, end: 8 },
  })
  t.strictSame(fetched, [])
  t.notOk(parts.isFetching)
  t.end()
})
