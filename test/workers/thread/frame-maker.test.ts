import { join } from 'node:path'
import t from 'tap'
import { threadKernels } from '../../../src/workers/kernels.ts'
import type { DeltaFrameParts, Part, Piece } from '../../../src/workers/tasks.ts'
import { FileReader } from '../../../src/workers/thread/file-reader.ts'
import { FrameMaker } from '../../../src/workers/thread/frame-maker.ts'

const BYTES = 4096

/** A bench for a task that is cancelled once it has asked `most` times whether it is. */
function benchOf(most: number) {
  let asked = 0
  const files = new FileReader(threadKernels().machine)
  const bench = new FrameMaker(threadKernels(), files, () => ++asked > most)
  return { bench, asked: () => asked }
}

const CANCELLED = { message: /nobody waits/ }

t.test('a task is left off at the part that it is at', async t => {
  const path = join(t.testdir({ file: Buffer.alloc(BYTES) }), 'file')
  const part: Part = { path, start: 0, end: BYTES, check: null }
  const copy: Piece = { kind: 'copy', part, size: BYTES }
  const checked = {
    ...part,
    check: { blob: 'b', start: 0, end: BYTES, sums: new BigUint64Array(1) },
  }
  await t.test('between pieces that are hashed or written', async t => {
    const { bench, asked } = benchOf(3)
    let produced = 0
    const produce = () => {
      for (const _bytes of bench.produce(new Array<Piece>(100).fill(copy), [])) produced++
    }
    t.throws(produce, CANCELLED)
    t.equal(produced, 3)
    t.equal(asked(), 4)
  })
  await t.test('between pieces that are joined', async t => {
    const { bench, asked } = benchOf(5)
    const pieces = new Array<Piece>(100).fill(copy)
    t.throws(() => bench.join(pieces, new Uint8Array(BYTES * 100), []), CANCELLED)
    t.equal(asked(), 6)
  })
  await t.test('between the frames of one lineage', async t => {
    const { bench, asked } = benchOf(7)
    let piece: Piece = copy
    for (let level = 0; level < 64; level++) {
      const prediction = { source: [piece], size: BYTES, dtype: 'U8' } as const
      const rest = { dtype: 'U8', encoding: 'copy', size: BYTES, checksum: 0n } as const
      const frame: DeltaFrameParts = { ...rest, record: part, prediction }
      piece = { kind: 'lossless', frame, slice: { start: 0, end: BYTES } }
    }
    t.throws(() => [...bench.produce([piece], [])], CANCELLED)
    t.equal(asked(), 8)
  })
  await t.test('between frames that are encoded', async t => {
    const { bench, asked } = benchOf(2)
    const job = { dtype: 'U8', size: BYTES, tuned: part, prediction: null, lineage: 0 } as const
    const frames = new Array(100).fill(job)
    t.throws(() => bench.encode({ kind: 'encode-frames', frames }, []), CANCELLED)
    t.equal(asked(), 3)
  })
  await t.test('between parts that are verified', async t => {
    const { bench, asked } = benchOf(2)
    const parts = new Array(100).fill(checked)
    t.throws(() => bench.verify({ kind: 'verify', parts }, []), CANCELLED)
    t.equal(asked(), 3)
  })
})
