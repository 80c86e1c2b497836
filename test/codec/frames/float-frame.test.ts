import { readFileSync } from 'node:fs'
import t from 'tap'
import {
  applySteps,
  decodeFrame,
  type FloatFrame,
  type FrameStep,
} from '../../../src/codec/frames/float-frame.ts'
import { PlainMachine } from '../../../src/codec/kernels/plain.ts'
import { openKernels } from '../../../src/codec/kernels/simd.ts'
import { Random } from '../../support/random.ts'

const WASM = new URL('../../../src/codec/kernels/kernels.wasm', import.meta.url)
const simd = openKernels(readFileSync(WASM))
const plain = new PlainMachine()
/** More than two blocks, and no multiple of anything. */
const COUNT = 150_007
const FIRST = 2 ** 33 + 5
const COLUMNS = 777

const random = new Random(7)
const bytes = (length: number) => Uint8Array.from({ length }, () => random.below(256))
const int64 = (values: readonly number[]) =>
  new Uint8Array(BigInt64Array.from(values.map(BigInt)).buffer)

/** Indices of about one element in `every`, within the frame. */
function indicesOf(every: number): number[] {
  return Array.from({ length: COUNT }, (_, i) => FIRST + i).filter(() => random.below(every) === 0)
}

/** float16 that are no NaN and not infinite. */
function halves(count: number): Uint8Array {
  const values = Uint16Array.from({ length: count }, () => 0x1000 + random.below(0x2000))
  return new Uint8Array(values.buffer)
}

function scene(steps: (parts: Uint8Array[]) => FrameStep[]): {
  frame: FloatFrame
  parts: Uint8Array[]
} {
  const base = Uint16Array.from({ length: COUNT }, () => 0x3c00 + random.below(0x180))
  const parts = [new Uint8Array(base.buffer)]
  return {
    frame: { first: FIRST, count: COUNT, load: 'BF16', steps: steps(parts), store: 'F16' },
    parts,
  }
}

function int4(parts: Uint8Array[], outliers: readonly number[]): FrameStep {
  const at = parts.length
  parts.push(int64(outliers), halves(outliers.length), bytes((COUNT >> 1) + 2))
  const [indices, values, packed] = [at, at + 1, at + 2]
  return { op: 'int4', scale: 0.01, zeroPoint: -0.07, nibble: 1, indices, values, packed }
}

function sparse(parts: Uint8Array[], kept: readonly number[]): FrameStep {
  const at = parts.length
  const values = Float32Array.from(kept, () => random.below(1000) / 1e4)
  parts.push(int64(kept), new Uint8Array(values.buffer))
  return { op: 'sparse', indices: at, values: at + 1 }
}

function quantized(parts: Uint8Array[]): FrameStep {
  const at = parts.length
  parts.push(bytes((COUNT >> 3) + 2), halves(Math.ceil(COUNT / COLUMNS) + 2))
  return { op: 'quantized', bit: 3, column: 500, columns: COLUMNS, signs: at, scales: at + 1 }
}

const SCENES = {
  'no step': () => [],
  int4: (parts: Uint8Array[]) => [int4(parts, indicesOf(50))],
  'int4 with every second an outlier': (parts: Uint8Array[]) => [int4(parts, indicesOf(2))],
  'int4 without outliers': (parts: Uint8Array[]) => [int4(parts, [])],
  sparse: (parts: Uint8Array[]) => [sparse(parts, indicesOf(10))],
  'sparse with all in the last block': (parts: Uint8Array[]) => [
    sparse(parts, [FIRST + COUNT - 2, FIRST + COUNT - 1]),
  ],
  quantized: (parts: Uint8Array[]) => [quantized(parts)],
  'a chain of all': (parts: Uint8Array[]): FrameStep[] => [
    int4(parts, indicesOf(100)),
    { op: 'round', dtype: 'BF16' },
    sparse(parts, indicesOf(7)),
    { op: 'round', dtype: 'F16' },
    quantized(parts),
    { op: 'round', dtype: 'BF16' },
    int4(parts, indicesOf(30)),
  ],
}

for (const [name, steps] of Object.entries(SCENES)) {
  t.test(`a frame in blocks is what it is as a whole: ${name}`, async t => {
    const { frame, parts } = scene(steps)
    applySteps(plain, frame, parts)
    const whole = plain.store(frame.store).slice()
    for (const machine of [plain, simd]) {
      const into = new Uint8Array(COUNT * 2)
      decodeFrame(machine, frame, parts, into)
      t.equal(Buffer.compare(into, whole), 0)
    }
  })
}

t.test('indices that are out of order are refused, wherever they stand', async t => {
  const sorted = [1, 70_000, 70_001, 140_000, 150_000].map(offset => FIRST + offset)
  const wrong = {
    'two of one block': [0, 2, 1, 3, 4],
    'two of different blocks': [3, 1, 2, 0, 4],
    'the last one first': [4, 0, 1, 2, 3],
    'one twice': [0, 1, 1, 3, 4],
    backwards: [4, 3, 2, 1, 0],
  }
  for (const [name, order] of Object.entries(wrong)) {
    const indices = order.map(i => sorted[i]!)
    for (const make of [int4, sparse]) {
      const { frame, parts } = scene(all => [make(all, indices)])
      for (const machine of [plain, simd]) {
        const decode = () => decodeFrame(machine, frame, parts, new Uint8Array(COUNT * 2))
        t.throws(decode, { name: 'CodecError', rule: 'index-order' }, name)
      }
    }
  }
  for (const index of [FIRST - 1, FIRST + COUNT, -1, 0]) {
    const { frame, parts } = scene(all => [sparse(all, [index])])
    const decode = () => decodeFrame(simd, frame, parts, new Uint8Array(COUNT * 2))
    t.throws(decode, { name: 'CodecError', rule: 'index-order' }, String(index))
  }
})

t.test('parts that are too short are refused', async t => {
  const short = {
    codes: (parts: Uint8Array[]) => {
      const step = int4(parts, [])
      parts[3] = parts[3]!.subarray(0, COUNT >> 1)
      return step
    },
    signs: (parts: Uint8Array[]) => {
      const step = quantized(parts)
      parts[1] = parts[1]!.subarray(0, COUNT >> 3)
      return step
    },
    scales: (parts: Uint8Array[]) => {
      const step = quantized(parts)
      parts[2] = parts[2]!.subarray(0, 100)
      return step
    },
    values: (parts: Uint8Array[]) => {
      const step = sparse(parts, [FIRST, FIRST + 1, FIRST + 149_000])
      parts[2] = parts[2]!.subarray(0, 8)
      return step
    },
    base: (parts: Uint8Array[]) => {
      parts[0] = parts[0]!.subarray(0, COUNT * 2 - 1)
      return { op: 'round', dtype: 'BF16' } as const
    },
  }
  for (const [name, make] of Object.entries(short)) {
    const { frame, parts } = scene(all => [make(all)])
    for (const machine of [plain, simd]) {
      const decode = () => decodeFrame(machine, frame, parts, new Uint8Array(COUNT * 2))
      t.throws(decode, { name: 'CodecError', rule: 'part-length' }, name)
    }
  }
})
