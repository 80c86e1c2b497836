import t from 'tap'
import { DTYPE_BITS, type Dtype } from '../../../src/codec/base/dtypes.ts'
import { CodecError } from '../../../src/codec/base/errors.ts'
import { FRAME_BYTES } from '../../../src/codec/base/limits.ts'
import {
  type Encoding,
  elementWidth,
  encodeFrame,
  restoreFrame,
} from '../../../src/codec/frames/frame-encodings.ts'
import type { FrameKernels } from '../../../src/codec/frames/frame-kernels.ts'
import { PlainMachine } from '../../../src/codec/kernels/plain.ts'
import { threadKernels } from '../../../src/workers/kernels.ts'
import { Random } from '../../support/random.ts'

const simd = threadKernels()
const plain: FrameKernels = { ...simd, machine: new PlainMachine() }
const DTYPES = Object.keys(DTYPE_BITS) as Dtype[]

/** How a fine-tune came from its parent. */
type Change = 'nothing' | 'few' | 'steps' | 'blocks' | 'bits' | 'everything' | 'zeros'
const CHANGES: Change[] = ['nothing', 'few', 'steps', 'blocks', 'bits', 'everything', 'zeros']

/** Values of about the size of weights, with a NaN, an infinity and a -0 where a frame has room for them. */
function weights(dtype: Dtype, count: number, random: Random): Uint8Array {
  const bytes = new Uint8Array(count * elementWidth(dtype))
  const view = new DataView(bytes.buffer)
  const scratch = new DataView(new ArrayBuffer(4))
  for (let i = 0; i < count; i++) {
    const value = ((random.below(2000) - 1000) / 1000) * 2 ** -random.below(12)
    if (dtype === 'F32') view.setFloat32(i * 4, value, true)
    else if (dtype === 'F64') view.setFloat64(i * 8, value, true)
    else if (dtype === 'F16') view.setFloat16(i * 2, value, true)
    else if (dtype === 'BF16') {
      scratch.setFloat32(0, value, true)
      view.setUint16(i * 2, scratch.getUint16(2, true), true)
    } else
      for (let b = 0; b < elementWidth(dtype); b++)
        bytes[i * elementWidth(dtype) + b] = random.below(24)
  }
  for (const special of [0x7fc1, 0xff80, 0x8000, 0x7f80, 0xffff, 0x0001]) {
    if (bytes.length > 64) view.setUint16(random.below((bytes.length >> 1) - 1) * 2, special, true)
  }
  return bytes
}

function changed(parent: Uint8Array, change: Change, random: Random): Uint8Array {
  const bytes = parent.slice()
  const view = new DataView(bytes.buffer)
  const lanes = Math.floor(bytes.length / 2)
  if (change === 'zeros') bytes.fill(0)
  if (change === 'everything') for (let i = 0; i < bytes.length; i++) bytes[i] = random.below(256)
  if (change === 'few')
    for (let i = 0; i < 3; i++) bytes[random.below(bytes.length)] = random.below(256)
  for (let i = 0; i < lanes; i++) {
    const step = random.below(9) - 4
    const at = i * 2
    if (change === 'steps') view.setUint16(at, view.getUint16(at, true) + step, true)
    if (change === 'blocks' && i % 512 < 40)
      view.setUint16(at, view.getUint16(at, true) ^ step, true)
    if (change === 'bits' && random.below(10) === 0) bytes[at + 1]! ^= 1 << random.below(8)
  }
  return bytes
}

t.test('every dtype, every kind of change, sizes around vectors and blocks', async t => {
  const seen = new Set<Encoding>()
  for (const dtype of DTYPES) {
    for (const count of [1, 2, 7, 15, 16, 17, 31, 33, 255, 4097, 20_000]) {
      for (const change of CHANGES) {
        const random = new Random(count + DTYPES.indexOf(dtype) * 1000)
        const parent = weights(dtype, count, random)
        const tuned = changed(parent, change, random)
        for (const prediction of [parent, null]) {
          const { encoding, stored } = encodeFrame(simd, dtype, tuned, prediction)
          const frame = prediction?.slice() ?? new Uint8Array(tuned.length)
          restoreFrame(simd, dtype, encoding, stored, frame)
          const what = `${dtype} ${count} ${change} ${encoding}`
          if (Buffer.compare(frame, tuned) !== 0) t.fail(`${what}: other bytes came back`)
          if (stored.length > tuned.length) t.fail(`${what}: ${stored.length} bytes stored`)
          seen.add(encoding)
        }
      }
    }
  }
  t.same([...seen].sort(), ['coded', 'copy', 'planes', 'raw', 'sparse', 'xor', 'zstd'])
})

t.test('the plain twin makes the same records and reads them', async t => {
  for (const dtype of ['BF16', 'F16', 'F32'] as const) {
    for (const count of [16, 500, 3000, 30_001]) {
      for (const change of ['few', 'steps', 'blocks', 'bits', 'everything'] as const) {
        const random = new Random(count)
        const parent = weights(dtype, count, random)
        const tuned = changed(parent, change, random)
        const fast = encodeFrame(simd, dtype, tuned, parent)
        const slow = encodeFrame(plain, dtype, tuned, parent)
        const what = `${dtype} ${count} ${change}`
        t.equal(slow.encoding, fast.encoding, what)
        if (Buffer.compare(slow.stored, fast.stored) !== 0) t.fail(`${what}: other bytes`)
        const frame = parent.slice()
        restoreFrame(plain, dtype, fast.encoding, fast.stored, frame)
        if (Buffer.compare(frame, tuned) !== 0) t.fail(`${what}: other bytes came back`)
      }
    }
  }
})

t.test('float32 whose lower halves alone changed has no lanes to code', async t => {
  const random = new Random(2)
  const parent = weights('F32', 5000, random)
  const tuned = parent.slice()
  for (let at = 0; at < tuned.length; at += 8) tuned[at]! ^= 1 + random.below(3)
  for (const tools of [simd, plain]) {
    const { encoding, stored } = encodeFrame(tools, 'F32', tuned, parent)
    t.equal(encoding, 'coded')
    for (const reader of [simd, plain]) {
      const frame = parent.slice()
      restoreFrame(reader, 'F32', encoding, stored, frame)
      t.equal(Buffer.compare(frame, tuned), 0)
    }
  }
})

t.test('a frame of full size comes back', async t => {
  for (const [dtype, change] of [
    ['BF16', 'steps'],
    ['F16', 'blocks'],
    ['F32', 'steps'],
    ['F32', 'blocks'],
    ['F64', 'steps'],
    ['BF16', 'everything'],
  ] as const) {
    const random = new Random(5)
    const parent = weights(dtype, FRAME_BYTES / elementWidth(dtype), random)
    const tuned = changed(parent, change, random)
    const { encoding, stored } = encodeFrame(simd, dtype, tuned, parent)
    const frame = parent.slice()
    restoreFrame(simd, dtype, encoding, stored, frame)
    t.equal(Buffer.compare(frame, tuned), 0, `${dtype} ${change} as ${encoding}`)
  }
})

t.test('every pair of 16-bit values comes back', async t => {
  // Whatever x and y are, NaN payloads and -0 included: the sum over a frame of each x with a y that runs through all values.
  const parent = new Uint8Array(FRAME_BYTES / 16)
  const tuned = new Uint8Array(parent.length)
  const [x, y] = [new DataView(parent.buffer), new DataView(tuned.buffer)]
  for (const odd of [1, 40503, 30011]) {
    for (let i = 0; i < 65536; i++) {
      x.setUint16(i * 2, i, true)
      y.setUint16(i * 2, (i * odd + odd) & 0xffff, true)
    }
    const limited = tuned.slice()
    // Most of it is near, so that the coder is chosen.
    for (let i = 0; i < limited.length; i++) if (i % 64 > 3) limited[i] = parent[i]!
    const { encoding, stored } = encodeFrame(simd, 'BF16', limited, parent)
    t.equal(encoding, 'coded')
    const frame = parent.slice()
    restoreFrame(simd, 'BF16', encoding, stored, frame)
    t.equal(Buffer.compare(frame, limited), 0)
  }
})

t.test('damaged records end, in time, with the frame or a CodecError', async t => {
  const random = new Random(9)
  let refused = 0
  for (const dtype of ['BF16', 'F16', 'F32', 'I64'] as const) {
    for (const change of ['few', 'steps', 'blocks', 'bits'] as const) {
      const parent = weights(dtype, 2000, random)
      const { encoding, stored } = encodeFrame(simd, dtype, changed(parent, change, random), parent)
      for (let i = 0; i < 300; i++) {
        const damaged = stored.slice(0, i % 3 === 0 ? random.below(stored.length) : stored.length)
        for (let n = 0; n <= i % 4 && damaged.length > 0; n++) {
          damaged[random.below(Math.min(damaged.length, i % 2 ? 64 : damaged.length))]! ^=
            1 << random.below(8)
        }
        for (const tools of i % 10 ? [simd] : [simd, plain]) {
          try {
            restoreFrame(tools, dtype, encoding, damaged, parent.slice())
          } catch (error) {
            if (!(error instanceof CodecError)) throw error
            refused++
          }
        }
      }
    }
  }
  t.ok(refused > 1000, `${refused} were refused`)
})

t.test('a record of another encoding, or for a dtype that has none', async t => {
  const frame = new Uint8Array(64)
  const rule = (dtype: Dtype, encoding: Encoding, stored: number[]) => {
    try {
      restoreFrame(simd, dtype, encoding, Uint8Array.from(stored), frame.slice())
      return 'none'
    } catch (error) {
      return error instanceof CodecError ? error.rule : String(error)
    }
  }
  t.equal(rule('BF16', 'raw', [1]), 'raw')
  t.equal(rule('BF16', 'zstd', [1, 2, 3]), 'zstd')
  t.equal(rule('BF16', 'sparse', [255, 255, 255, 255]), 'sparse')
  t.equal(rule('BF16', 'sparse', [1, 0, 0, 0, 200, 200, 200, 200, 0, 0]), 'sparse')
  t.equal(rule('BF16', 'sparse', [1, 0, 0, 0, 40, 0, 0]), 'sparse')
  t.equal(rule('BF16', 'coded', [1]), 'coded')
  t.equal(rule('I64', 'coded', [1]), 'encoding')
})

t.test(
  'upon a long lineage a few changes are listed, which decodes faster, and no others are',
  async t => {
    const random = new Random(21)
    const count = 2 ** 16
    for (const dtype of ['BF16', 'F16'] as const) {
      const width = elementWidth(dtype)
      const parent = weights(dtype, count, random)
      const encode = (frame: Uint8Array, lineage?: number) => {
        const { encoding, stored } = encodeFrame(threadKernels(), dtype, frame, parent, lineage)
        return { encoding, stored: stored.slice() }
      }
      const frame = parent.slice()
      for (let i = 0; i < count / 100; i++)
        frame[random.below(count) * width + width - 2]! += 1 + random.below(6)
      const short = encode(frame)
      t.equal(short.encoding, 'coded', `${dtype}: the shortest`)
      t.same(encode(frame, 7), short)
      const long = encode(frame, 8)
      t.equal(long.encoding, 'sparse')
      t.ok(long.stored.length <= short.stored.length * 3, `${long.stored.length} bytes`)
      const restored = parent.slice()
      restoreFrame(threadKernels(), dtype, long.encoding, long.stored, restored)
      t.equal(Buffer.compare(restored, frame), 0)
      for (const change of ['nothing', 'few', 'steps', 'everything'] as const) {
        const other = changed(parent, change, random)
        t.same(encode(other, 64), encode(other), `${dtype}: ${change}`)
      }
    }
  },
)
