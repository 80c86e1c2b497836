import t from 'tap'
import type { Dtype } from '../../../src/codec/base/dtypes.ts'
import { FRAME_BYTES } from '../../../src/codec/base/limits.ts'
import type { Prediction } from '../../../src/codec/plan/segments.ts'
import type { DeltaFrameParts, Piece } from '../../../src/workers/tasks.ts'
import { SharedFrames } from '../../../src/workers/thread/shared-frames.ts'

function frame(dtype: Dtype, prediction: Prediction<Piece> | null): DeltaFrameParts {
  return { dtype, encoding: 'sparse', record: null, size: FRAME_BYTES, checksum: 0n, prediction }
}

const sliceOf = (of: DeltaFrameParts, start: number, end: number): Piece => {
  return { kind: 'lossless', frame: of, slice: { start, end } }
}

/** A frame of F16 at the end of `pairs` times F64 and F16 in turn: each F16 frame of four F64 ones, each of those of a quarter of it. */
function zigzag(pairs: number): DeltaFrameParts {
  let last = frame('F16', null)
  for (let pair = 0; pair < pairs; pair++) {
    const quarter = FRAME_BYTES / 4
    const wide = [0, 1, 2, 3].map(i => {
      const source = [sliceOf(last, i * quarter, (i + 1) * quarter)]
      return frame('F64', { source, size: quarter, dtype: 'F16' })
    })
    const source = wide.map(each => sliceOf(each, 0, FRAME_BYTES))
    last = frame('F16', { source, size: FRAME_BYTES * 4, dtype: 'F64' })
  }
  return last
}

/** Decodes a frame as a bench does, and counts. */
function decodeAll(piece: Piece) {
  const shared = new SharedFrames()
  const memory = new Set<ArrayBufferLike>()
  let decoded = 0
  const want = (pieces: readonly Piece[]) => {
    for (const each of pieces) {
      if (each.kind !== 'lossless' || shared.use(each.frame)) continue
      decoded++
      want(each.frame.prediction?.source ?? [])
    }
  }
  shared.make([piece], ({ prediction }, into) => {
    memory.add(into.buffer)
    decoded++
    want(prediction?.source ?? [])
  })
  want([piece])
  return { decoded, buffers: memory.size }
}

t.test('a frame that several want is decoded once, in the memory of a few frames', async t => {
  for (const pairs of [1, 2, 8, 32]) {
    const { decoded, buffers } = decodeAll(sliceOf(zigzag(pairs), 0, FRAME_BYTES))
    t.equal(decoded, 1 + pairs * 5)
    t.ok(buffers <= 8, `${buffers} buffers for ${pairs} pairs`)
  }
})

t.test('what one frame alone wants, of its own width, is made where that is made', async t => {
  let last = frame('BF16', null)
  for (const dtype of ['BF16', 'F16', 'F16', 'BF16'] as const) {
    const source = [sliceOf(last, 0, FRAME_BYTES)]
    last = frame(dtype, { source, size: FRAME_BYTES, dtype: last.dtype })
  }
  const { decoded, buffers } = decodeAll(sliceOf(last, 0, FRAME_BYTES))
  t.equal(decoded, 5)
  t.equal(buffers, 0)
})

t.test('a task that failed leaves nothing to the next', async t => {
  const shared = new SharedFrames()
  const piece = sliceOf(zigzag(2), 0, FRAME_BYTES)
  let made: DeltaFrameParts | null = null
  const fail = () =>
    shared.make([piece], part => {
      if (made) throw new Error('bad')
      made = part
    })
  t.throws(fail, { message: 'bad' })
  t.ok(shared.has(made!))
  shared.make([], () => {})
  t.notOk(shared.has(made!))
})
