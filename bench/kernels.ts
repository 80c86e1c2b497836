/** Prints GB/s of each kernel, SIMD beside plain, in one run: `node bench/kernels.ts [milliseconds per figure]`. */
import { readFileSync } from 'node:fs'
import { FRAME_BYTES } from '../src/codec/base/limits.ts'
import { decodeFrame, type FloatFrame, type FrameStep } from '../src/codec/frames/float-frame.ts'
import type { FrameMachine } from '../src/codec/kernels/machine.ts'
import { PlainMachine } from '../src/codec/kernels/plain.ts'
import { openKernels } from '../src/codec/kernels/simd.ts'
import { Random } from '../test/support/random.ts'

const COUNT = 1024 * 1024
const milliseconds = Number(process.argv[2] ?? 300)
const wasm = new URL('../src/codec/kernels/kernels.wasm', import.meta.url)
const simd = openKernels(readFileSync(wasm))
const plain = new PlainMachine()

/** Best time of one call, in nanoseconds per element. */
function time(run: () => unknown): number {
  let best = Infinity
  const end = performance.now() + milliseconds
  do {
    const start = performance.now()
    run()
    best = Math.min(best, performance.now() - start)
  } while (performance.now() < end)
  return (best * 1e6) / COUNT
}

/** One line: GB/s of `width` bytes per element. */
function report(name: string, width: number, run: (machine: FrameMachine) => unknown): void {
  const [fast, slow] = [simd, plain].map(machine => {
    machine.load('F32', bytes(delta), COUNT)
    return width / time(() => run(machine))
  })
  const figures = [fast!, slow!].map(gigabytes => gigabytes.toFixed(2).padStart(8))
  process.stdout.write(
    `${name.padEnd(36)}${figures.join('')}${(fast! / slow!).toFixed(1).padStart(8)}x\n`,
  )
}

function bytes(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
}

const random = new Random(1)

/** Roughly normal, with a standard deviation of 1. */
function normal(): number {
  return (random.float() + random.float() + random.float() + random.float() - 2) * Math.sqrt(3)
}

function listed(share: number): BigInt64Array {
  const indices: bigint[] = []
  for (let e = 0; e < COUNT; e++) if (random.float() < share) indices.push(BigInt(e))
  return BigInt64Array.from(indices)
}

const weights = Float32Array.from({ length: COUNT }, () => normal() * 0.02)
const delta = Float32Array.from({ length: COUNT }, () => normal() * 0.001)
const base = Uint16Array.from(new Uint32Array(weights.buffer), bits => bits >>> 16)
const tuned = Uint16Array.from(
  new Uint32Array(weights.map((weight, e) => weight + delta[e]!).buffer),
  word => word >>> 16,
)
const half = Float16Array.from(weights)
const packed = Uint8Array.from({ length: COUNT / 2 }, () => random.below(256))
const signs = Uint8Array.from({ length: COUNT / 8 }, () => random.below(256))
const scales = Float16Array.from({ length: COUNT }, () => random.float() * 0.001)

const parts = [bytes(base)]
function part(array: ArrayBufferView): number {
  return parts.push(bytes(array)) - 1
}

function int4(share: number): FrameStep {
  const indices = listed(share)
  const values = Float16Array.from(indices, () => normal() * 0.01)
  return {
    op: 'int4',
    scale: 0.0003,
    zeroPoint: -0.002,
    nibble: 0,
    indices: part(indices),
    values: part(values),
    packed: part(packed),
  }
}

function sparse(share: number): FrameStep {
  const indices = listed(share)
  const values = Float32Array.from(indices, () => normal() * 0.01)
  return { op: 'sparse', indices: part(indices), values: part(values) }
}

function quantized(columns: number): FrameStep {
  return { op: 'quantized', bit: 0, column: 0, columns, signs: part(signs), scales: part(scales) }
}

function frame(...steps: FrameStep[]): FloatFrame {
  return { first: 0, count: COUNT, load: 'BF16', steps, store: 'BF16' }
}

process.stdout.write(`${'GB/s'.padEnd(36)}    simd   plain   ratio\n`)
const frames: [string, FloatFrame][] = [
  ['frame bf16, no step', frame()],
  ['frame bf16 + int4, 1 % outliers', frame(int4(0.01))],
  ['frame bf16 + int4, 50 % outliers', frame(int4(0.5))],
  ['frame bf16 + sparse, 10 % kept', frame(sparse(0.1))],
  ['frame bf16 + quantized, 4096 columns', frame(quantized(4096))],
  ['frame bf16 + quantized, 3 columns', frame(quantized(3))],
  [
    'frame bf16 + int4 + round + int4',
    frame(int4(0.01), { op: 'round', dtype: 'BF16' }, int4(0.01)),
  ],
]
const into = new Uint8Array(FRAME_BYTES)
for (const [name, each] of frames) {
  report(name, 2, machine => decodeFrame(machine, each, parts, into))
}
report('load bf16', 2, machine => machine.load('BF16', bytes(base), COUNT))
report('load f16', 2, machine => machine.load('F16', bytes(half), COUNT))
report('load f32', 4, machine => machine.load('F32', bytes(delta), COUNT))
report('store bf16', 2, machine => machine.store('BF16'))
report('store f16', 2, machine => machine.store('F16'))
report('round bf16', 2, machine => machine.round('BF16'))
report('round f16', 2, machine => machine.round('F16'))
report('subtract bf16', 2, machine => machine.subtractFrom('BF16', bytes(base)))

const bins = new Uint32Array(65_536)
const low = [new Uint32Array(32_768), new Uint32Array(32_768)] as const
const ordered = Uint32Array.from(new Uint32Array(delta.buffer), word => word & 0x7fffffff).sort()
const threshold = ordered[Math.floor(COUNT * 0.99)]!
const cut = { threshold, takePositive: 1, takeNegative: 1 }
const grid = { ...cut, min: -0.0025, range: 0.005, nibble: 0 } as const
report('histogram, high', 2, machine => machine.histogramHigh(bins))
report('histogram, low', 2, machine => machine.histogramLow(threshold >>> 15, ...low))
report('count above', 2, machine => machine.countAbove(threshold))
report('select 1 %', 2, machine => machine.selectTop(cut))
report('quantize int4, 1 % outliers', 2, machine => machine.quantizeInt4(grid))
report('pack signs', 2, machine => machine.packSigns(0))
report('pairwise sum, rows of 4096', 2, machine => {
  for (let first = 0; first < COUNT; first += 4096) machine.pairwiseAbsSum(first, 4096)
})
report('error against bf16', 2, machine => machine.errorAgainst('BF16', bytes(base), 'BF16'))
report('sum of squares', 2, machine => machine.sumOfSquares())
report('encode int4, four passes', 2, machine => {
  const passes = [
    () => machine.histogramHigh(bins),
    () => machine.histogramLow(threshold >>> 15, ...low),
    () => machine.countAbove(threshold),
    () => machine.quantizeInt4(grid),
  ]
  for (const pass of passes) {
    machine.load('BF16', bytes(base), COUNT)
    machine.subtractFrom('BF16', bytes(tuned))
    pass()
  }
})
