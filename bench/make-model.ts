/**
 * Makes model folders of any size in constant memory, the same for the same seed:
 *
 *     node bench/make-model.ts OUT --size 6G --tensors 40 --big-tensor 2G [--dtype BF16|F16|F32] [--shards 1] [--seed 1]
 *     node bench/make-model.ts OUT --tuned-from DIR [--sigma 0.001] [--seed 2]
 *
 * Weights are normal with a standard deviation of 0.02. A fine-tune adds a normal delta of standard deviation sigma to each
 * of its base's and rounds to nearest even.
 */
import { mkdir, open, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { itemBytes } from '../src/codec/base/dtypes.ts'
import { narrow, widen } from '../src/codec/base/widen.ts'
import { headerBytes, parseLayout } from '../src/codec/safetensors/header.ts'
import type { Layout, Shard } from '../src/codec/safetensors/layout.ts'
import { buildLayout } from '../src/codec/safetensors/write-header.ts'
import { splitMix } from '../test/support/random.ts'

export type WeightDtype = 'BF16' | 'F16' | 'F32'

export interface ModelSpec {
  /** Bytes of all tensors, roughly: tensors are whole rows. */
  readonly size: number
  readonly tensors: number
  /** Bytes of one more tensor, part of `size`. */
  readonly bigTensor?: number
  readonly dtype?: WeightDtype
  readonly shards?: number
  readonly seed?: number
}

const COLUMNS = 1024
const CHUNK = 1024 * 1024
const WEIGHT_SIGMA = 0.02

/** Normal numbers to take runs from: drawing one for each of three billion weights would take minutes. */
class NormalTable {
  readonly values = new Float32Array(4 * CHUNK)
  /** Uniform from 0 to below 1. */
  readonly random: () => number

  constructor(seed: number) {
    this.random = splitMix(seed)
    for (let i = 0; i < this.values.length; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(1 - this.random()))
      const angle = 2 * Math.PI * this.random()
      this.values[i] = radius * Math.cos(angle)
      this.values[i + 1] = radius * Math.sin(angle)
    }
  }

  /** Where a run of `CHUNK` numbers begins. */
  run(): number {
    return Math.floor(this.random() * (this.values.length - CHUNK))
  }
}

/** Writes a model of `spec` into `folder`. Files of the same names are replaced. */
export async function makeModel(folder: string, spec: ModelSpec): Promise<void> {
  const { dtype = 'BF16', seed = 1 } = spec
  const table = new NormalTable(seed)
  const width = itemBytes(dtype)
  const encoded = new Uint8Array(table.values.length * width)
  narrow(
    dtype,
    table.values.map(value => value * WEIGHT_SIGMA),
    encoded,
  )
  const shards = planShards(spec, dtype)
  await writeModel(folder, shards, async (_shard, begin, end) => {
    const at = table.run() * width
    return encoded.subarray(at, at + end - begin)
  })
}

/** Writes a fine-tune of the model in `base` into `folder`: its shards with a normal delta added to every weight. */
export async function makeTuned(
  folder: string,
  base: string,
  { sigma = 0.001, seed = 2 }: { sigma?: number; seed?: number } = {},
): Promise<void> {
  const table = new NormalTable(seed)
  const paths = (await readdir(base)).filter(name => name.endsWith('.safetensors')).sort()
  const shards = await Promise.all(paths.map(path => readShard(base, path)))
  const values = new Float32Array(CHUNK)
  await writeModel(folder, shards, async ({ path, layout }, begin, end) => {
    await using file = await open(join(base, path))
    const bytes = new Uint8Array(end - begin)
    await file.read(bytes, 0, bytes.length, begin)
    // One dtype per file is all that makeModel writes.
    const dtype = layout.tensors[0]!.dtype as WeightDtype
    const part = values.subarray(0, bytes.length / itemBytes(dtype))
    widen(dtype, bytes, part.length, part)
    const first = table.run()
    for (let i = 0; i < part.length; i++) part[i]! += sigma * table.values[first + i]!
    narrow(dtype, part, bytes)
    return bytes
  })
}

function planShards({ size, tensors, bigTensor = 0, shards = 1 }: ModelSpec, dtype: WeightDtype) {
  const rowBytes = COLUMNS * itemBytes(dtype)
  const shape = (bytes: number) => [Math.max(1, Math.round(bytes / rowBytes)), COLUMNS]
  const planned = Array.from({ length: tensors }, (_, i) => {
    const name = `model.layers.${Math.floor(i / 2)}.mlp.${i % 2 ? 'up' : 'down'}_proj.weight`
    return { name, dtype, shape: shape((size - bigTensor) / tensors) }
  })
  planned.push({ name: 'model.norm.weight', dtype, shape: [COLUMNS] })
  if (bigTensor > 0) {
    planned.push({ name: 'model.embed_tokens.weight', dtype, shape: shape(bigTensor) })
  }
  const metadata = new Map([['format', 'pt']])
  const number = (i: number) => String(i).padStart(5, '0')
  return Array.from({ length: shards }, (_, shard): Shard => {
    // Dealt out in turn, so that name order and shard order differ.
    const own = planned.filter((_tensor, i) => i % shards === shard)
    const name = shards === 1 ? 'model' : `model-${number(shard + 1)}-of-${number(shards)}`
    return { path: `${name}.safetensors`, layout: buildLayout(own, metadata) }
  })
}

async function readShard(folder: string, path: string): Promise<Shard> {
  await using file = await open(join(folder, path))
  const { size } = await file.stat()
  const first = new Uint8Array(8)
  await file.read(first, 0, first.length, 0)
  const header = new Uint8Array(headerBytes(first, size))
  await file.read(header, 0, header.length, 0)
  return { path, layout: parseLayout(header, size) }
}

/** `weights` gives the bytes `[begin, end)` of a shard's file, at most `CHUNK` elements; they are written before it is asked again. */
async function writeModel(
  folder: string,
  shards: readonly Shard[],
  weights: (shard: Shard, begin: number, end: number) => Promise<Uint8Array>,
): Promise<void> {
  await mkdir(folder, { recursive: true })
  for (const shard of shards) {
    const { header, tensors, size } = shard.layout
    await using file = await open(join(folder, shard.path), 'w')
    await file.write(header)
    const step = CHUNK * itemBytes(tensors[0]!.dtype)
    for (let begin = header.length; begin < size; begin += step) {
      await file.write(await weights(shard, begin, Math.min(size, begin + step)))
    }
  }
  await writeFile(join(folder, 'config.json'), '{"model_type": "made-up"}\n')
  if (shards.length > 1) await writeIndex(folder, shards)
}

async function writeIndex(folder: string, shards: readonly Shard[]): Promise<void> {
  const places = shards.flatMap(({ path, layout }: Shard) =>
    layout.tensors.map(({ name }: Layout['tensors'][number]) => [name, path] as const),
  )
  const index = { metadata: {}, weight_map: Object.fromEntries(places) }
  await writeFile(join(folder, 'model.safetensors.index.json'), `${JSON.stringify(index)}\n`)
}

/** Bytes of `300M` or `6G`: K, M and G are powers of 1000. */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([KMG]?)$/.exec(text)
  if (!match) throw new Error(`expected a size such as 300M, got ${text}`)
  return Math.round(Number(match[1]) * 1000 ** ['', 'K', 'M', 'G'].indexOf(match[2]!))
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      size: { type: 'string', default: '300M' },
      tensors: { type: 'string', default: '40' },
      'big-tensor': { type: 'string', default: '0' },
      dtype: { type: 'string', default: 'BF16' },
      shards: { type: 'string', default: '1' },
      seed: { type: 'string' },
      'tuned-from': { type: 'string' },
      sigma: { type: 'string', default: '0.001' },
    },
  })
  const [folder] = positionals
  if (folder === undefined) throw new Error('expected the folder to write to')
  const tuned = values['tuned-from']
  if (tuned !== undefined) {
    const seed = Number(values.seed ?? 2)
    return makeTuned(folder, tuned, { sigma: Number(values.sigma), seed })
  }
  await makeModel(folder, {
    size: parseSize(values.size),
    tensors: Number(values.tensors),
    bigTensor: parseSize(values['big-tensor']),
    dtype: values.dtype as WeightDtype,
    shards: Number(values.shards),
    seed: Number(values.seed ?? 1),
  })
}

if (import.meta.main) await main()
