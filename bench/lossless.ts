/**
 * Lossless deltas of real training pairs beside published codecs, in one run:
 *
 *     node bench/lossless.ts [--pairs ../shared/fixtures/pairs] [--tiled 256M] [--runs 5]
 *
 * Sizes are shares of the fine-tune's safetensors bytes, everything counted. Speeds are of one thread, the tensors one after the other
 * and repeated up to the size that `--tiled` says; a figure is the median of `--runs`, and all things are run in turn. Decoding includes the
 * checksum of every frame; encoding includes checksums, decoding every frame again and comparing it. Exits 1 if a goal is missed.
 */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { zstdDecompressSync } from 'node:zlib'
import { FRAME_BYTES } from '../src/codec/base/limits.ts'
import {
  type EncodedFrame,
  encodeFrame,
  restoreFrame,
} from '../src/codec/frames/frame-encodings.ts'
import { headerBytes, parseLayout } from '../src/codec/safetensors/header.ts'
import { threadKernels } from '../src/workers/kernels.ts'
import { makeModel, parseSize } from './make-model.ts'
import { line, median } from './measure.ts'
import { bitxBytes, fmDeltaBytes, tensorxBytes, wholeBytes, zstd } from './other-codecs.ts'

const GOALS = [
  { base: 'base', tuned: 'sft-450', size: 0.48 },
  { base: 'base', tuned: 'light', size: 0.155 },
  { base: 'sft-300', tuned: 'sft-450', size: 0.295 },
] as const
/** Against zstd 1 on the raw bytes, in the same run. */
const DECODE_GOAL = 1.25
const ENCODE_GOAL = 0.45
/** Of frames equal to their parent's, against decoding what is coded. */
const COPY_GOAL = 5
/** What a parent without anything in common may cost: a part of the model compressed by itself. */
const STRANGER_GOAL = 1.001

const { values } = parseArgs({
  options: {
    pairs: { type: 'string', default: join(import.meta.dirname, '../../shared/fixtures/pairs') },
    tiled: { type: 'string', default: '256M' },
    runs: { type: 'string', default: '5' },
  },
})
const runs = Number(values.runs)
const tiledBytes = parseSize(values.tiled)
const folder = mkdtempSync(join(tmpdir(), 'wdelta-lossless-'))
const wdelta = join(import.meta.dirname, '../src/cli/wdelta.ts')
const { machine } = threadKernels()
const missed: string[] = []

interface Pair {
  readonly before: Uint8Array
  readonly after: Uint8Array
}

/** The tensors of two models with the same layout, in pairs, and the bytes of the header that they share. */
function readPairs(base: string, tuned: string): { header: number; size: number; pairs: Pair[] } {
  const [before, after] = [base, tuned].map(name =>
    readFileSync(join(values.pairs, name, 'model.safetensors')),
  )
  const layout = parseLayout(after!.subarray(0, headerBytes(after!, after!.length)), after!.length)
  const pairs = layout.tensors.map(({ begin, end }) => ({
    before: before!.subarray(begin, end),
    after: after!.subarray(begin, end),
  }))
  return { header: layout.header.length, size: after!.length, pairs }
}

/** Bytes of the delta that `wdelta save` writes. */
function savedBytes(base: string, tuned: string): number {
  const out = join(folder, 'delta.wdelta')
  const models = ['--tuned', tuned, '--base', base]
  execFileSync(process.execPath, [wdelta, 'save', out, ...models], { stdio: 'ignore' })
  return statSync(out).size
}

function sizes(): void {
  line('share of the fine-tune', 'BitX', 'TensorX', 'FM-Delta ideal', 'ours', 'goal')
  for (const { base, tuned, size: goal } of GOALS) {
    const { header, size, pairs } = readPairs(base, tuned)
    const others = [bitxBytes, tensorxBytes, fmDeltaBytes].map(codec =>
      pairs.reduce((sum, pair) => sum + codec(pair.before, pair.after), header),
    )
    const ours = savedBytes(join(values.pairs, base), join(values.pairs, tuned)) / size
    const name = `${base} -> ${tuned}`
    if (ours > goal) missed.push(`size of ${name}: ${ours.toFixed(4)}`)
    const cells = [...others.map(bytes => bytes / size), ours].map(share => share.toFixed(4))
    line(name, ...cells, `<= ${goal}`)
  }
}

/** A fine-tune whose parent is another model of the same shape, beside the same frames without any parent. */
async function stranger(): Promise<void> {
  const tuned = join(values.pairs, 'sft-450')
  const { header, size, pairs } = readPairs('base', 'sft-450')
  const other = join(folder, 'stranger')
  await makeModel(other, { size, tensors: 4 })
  const whole = pairs.reduce((sum, { after }) => sum + wholeBytes(after), header)
  const ours = savedBytes(other, tuned)
  if (ours > whole * STRANGER_GOAL) missed.push(`a stranger's delta: ${(ours / whole).toFixed(4)}x`)
  line(
    'sft-450 on a stranger / compressed whole',
    `${(ours / size).toFixed(4)} / ${(whole / size).toFixed(4)}`,
    `${(ours / whole).toFixed(4)}x`,
    `<= ${STRANGER_GOAL}x`,
  )
}

/** A pair of frames, and what the fine-tune's is encoded to. */
interface TiledFrame extends Pair {
  readonly record: EncodedFrame
  /** Of a frame that is its own parent. */
  readonly copy: EncodedFrame
  readonly checksum: bigint
}

/**
 * Frames of all tensors as one, repeated until it has `tiledBytes`. Each tensor for itself would repeat within a frame, which zstd sees
 * and weights never do.
 */
function tile(pairs: readonly Pair[]): TiledFrame[] {
  const [long, tuned] = (['before', 'after'] as const).map(side => {
    const once = Buffer.concat(pairs.map(pair => pair[side]))
    const times = Math.max(1, Math.round(tiledBytes / once.length))
    return Buffer.concat(Array.from({ length: times }, () => once))
  })
  const frames: TiledFrame[] = []
  for (let at = 0; at < tuned!.length; at += FRAME_BYTES) {
    const [before, after] = [long!, tuned!].map(
      bytes => new Uint8Array(bytes.subarray(at, at + FRAME_BYTES)),
    ) as [Uint8Array, Uint8Array]
    const checksum = machine.checksum(after)
    frames.push({ before, after, checksum, record: kept(after, before), copy: kept(after, after) })
  }
  return frames
}

function kept(frame: Uint8Array, prediction: Uint8Array): EncodedFrame {
  const { encoding, stored } = encodeFrame(threadKernels(), 'BF16', frame, prediction)
  return { encoding, stored: stored.slice() }
}

/** Where a worker has the two frames that it works on. */
const [there, beside] = [0, 1].map(i => (length: number) => {
  const at = i * FRAME_BYTES
  return machine.arena.subarray(at, at + length)
}) as [Room, Room]
type Room = (length: number) => Uint8Array

/** All that a worker does to encode a frame, once it has read its parent's. */
function encode({ before, after }: Pair): number {
  const [frame, expected] = [there(after.length), beside(after.length)]
  expected.set(before)
  return timed(() => {
    frame.set(after)
    const { encoding, stored } = encodeFrame(threadKernels(), 'BF16', frame, expected)
    restoreFrame(threadKernels(), 'BF16', encoding, stored, expected)
    if (Buffer.compare(expected, after) !== 0) throw new Error('a frame does not come back')
    machine.checksum(stored)
    machine.checksum(expected)
  })
}

/** All that a worker does to decode a frame, once it has read its parent's. */
function decode({ encoding, stored }: EncodedFrame, before: Uint8Array, checksum: bigint): number {
  const frame = there(before.length)
  frame.set(before)
  return timed(() => {
    restoreFrame(threadKernels(), 'BF16', encoding, stored, frame)
    if (machine.checksum(frame) !== checksum) throw new Error('a frame has another checksum')
  })
}

function timed(work: () => void): number {
  const began = performance.now()
  work()
  return performance.now() - began
}

/** GB/s of each thing, which takes a frame and gives milliseconds: medians over runs in which they take turns. */
function rates(
  frames: readonly TiledFrame[],
  things: readonly ((frame: TiledFrame, i: number) => number)[],
): number[] {
  const bytes = frames.reduce((sum, { after }) => sum + after.length, 0)
  const milliseconds = things.map((): number[] => [])
  for (let run = 0; run <= runs; run++) {
    for (const [at, thing] of things.entries()) {
      const all = frames.reduce((sum, frame, i) => sum + thing(frame, i), 0)
      // The first run compiles.
      if (run > 0) milliseconds[at]!.push(all)
    }
  }
  return milliseconds.map(all => bytes / 1e6 / median(all))
}

function speedsOf(name: string, pairs: readonly Pair[]): void {
  const frames = tile(pairs)
  const compressed = frames.map(({ after }) => zstd(after, 1))
  const [zstdIn, zstdOut, encoding, decoding, copying] = rates(frames, [
    ({ after }) => timed(() => zstd(after, 1)),
    (_frame, i) => timed(() => zstdDecompressSync(compressed[i]!)),
    encode,
    ({ record, before, checksum }) => decode(record, before, checksum),
    ({ copy, after, checksum }) => decode(copy, after, checksum),
  ]) as [number, number, number, number, number]
  const goals = [
    ['encode', encoding / zstdIn, ENCODE_GOAL],
    ['decode', decoding / zstdOut, DECODE_GOAL],
    ['copy', copying / decoding, COPY_GOAL],
  ] as const
  for (const [what, ratio, goal] of goals) {
    if (ratio < goal) missed.push(`${what} of ${name}: ${ratio.toFixed(2)}x`)
  }
  const rate = (value: number) => value.toFixed(3)
  const ratio = (value: number, goal: number) => `${value.toFixed(2)}x (>= ${goal})`
  line(
    name,
    `${rate(zstdIn)} / ${rate(zstdOut)}`,
    rate(encoding),
    ratio(encoding / zstdIn, ENCODE_GOAL),
    rate(decoding),
    ratio(decoding / zstdOut, DECODE_GOAL),
    rate(copying),
    ratio(copying / decoding, COPY_GOAL),
  )
}

function speeds(): void {
  line('GB/s per core', 'zstd 1 in / out', 'encode', '', 'decode', '', 'copy', 'to decode')
  for (const { base, tuned } of GOALS) {
    speedsOf(`${base} -> ${tuned}`, readPairs(base, tuned).pairs)
  }
}

try {
  sizes()
  await stranger()
  speeds()
} finally {
  rmSync(folder, { recursive: true })
}
if (missed.length > 0) {
  process.stdout.write(`missed: ${missed.join('; ')}\n`)
  process.exitCode = 1
}
