import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import type { Dtype } from '../../src/codec/base/dtypes.ts'
import { FRAME_BYTES } from '../../src/codec/base/limits.ts'
import { narrow } from '../../src/codec/base/widen.ts'
import { FEATURES, type Folder, generateLineage } from '../support/models/generated-models.ts'
import { wdelta } from '../support/servers/wdelta-process.ts'
import { describeV2, readV2, shardsOf } from './reader-v2.ts'
import { Reference } from './reference.ts'
import { normals, type Sample, sampleBase, sampleTuned, writeModel } from './sample-models.ts'

/** PAIRS names a folder with the whole models; without it their cut is used. */
const { PAIRS = join(import.meta.dirname, '../fixtures/pairs'), FULL } = process.env
const LINEAGES = FULL ? 500 : 40
/** Of every so many lineages, one is a chain of eight. */
const CHAIN_EVERY = 20
const ENCODINGS = ['copy', 'raw', 'zstd', 'planes', 'xor', 'sparse', 'coded']

t.setTimeout(FULL ? 3_600_000 : 600_000)
const reference = new Reference()
t.teardown(() => reference[Symbol.asyncDispose]())

const encodings = new Set<string>()

interface Pair {
  readonly tuned: string
  readonly base: string
  /** The model that the delta is on; the base where there are no parent deltas. */
  readonly parent?: string
  readonly parentDeltas?: readonly string[]
}

/** Saves a delta, has it read by the independent reader, and compares every shard. */
async function comesBack(t: Test, folder: string, pair: Pair): Promise<string> {
  const { tuned, base, parent = base, parentDeltas = [] } = pair
  const delta = `${folder}.wdelta`
  const parents = parentDeltas.flatMap(path => ['--parent-delta', path])
  const saved = await wdelta('save', delta, '--tuned', tuned, '--base', base, ...parents)
  t.equal(saved.code, 0, saved.stderr)
  t.equal(readV2(delta, parent, folder), null, 'the reader accepts it')
  const expected = shardsOf(tuned)
  const found = shardsOf(folder)
  t.strictSame([...found.keys()], [...expected.keys()])
  for (const [path, bytes] of expected) t.ok(found.get(path)?.equals(bytes), path)
  for (const [name, { frames }] of Object.entries(describeV2(delta).frames)) {
    if (frames > 0) encodings.add(name)
  }
  return delta
}

function writeFolder(to: string, folder: Folder): string {
  for (const [path, bytes] of folder) {
    mkdirSync(dirname(join(to, path)), { recursive: true })
    writeFileSync(join(to, path), bytes)
  }
  return to
}

/** A tensor of normal numbers; `change` makes another one of it, element by element. */
function tensor(
  name: string,
  dtype: 'BF16' | 'F16' | 'F32',
  shape: readonly number[],
  change: (value: number, i: number) => number = value => value,
): Sample {
  const normal = normals(name.length)
  const count = shape.reduce((product, size) => product * size, 1)
  const bytes = new Uint8Array(count * (dtype === 'F32' ? 4 : 2))
  const values = Float32Array.from({ length: count }, (_, i) => change(0.04 * normal(), i))
  narrow(dtype, values, bytes)
  return { name, dtype, shape, bytes }
}

function bytesOf(name: string, dtype: Dtype, shape: readonly number[], seed: number): Sample {
  const bits = { F4: 4, F6_E2M3: 6, F6_E3M2: 6, I16: 16, U16: 16, I32: 32, U32: 32, I64: 64 }
  const { [dtype as keyof typeof bits]: width = 8 } = bits
  const count = (shape.reduce((product, size) => product * size, 1) * width) / 8
  const normal = normals(1)
  const bytes = Uint8Array.from({ length: count }, (_, i) => 100 * normal() + (i % 50 ? 0 : seed))
  return { name, dtype, shape, bytes: dtype === 'BOOL' ? bytes.map(byte => byte & 1) : bytes }
}

const drift = (value: number, i: number) => value + (i % 3 ? 0.0004 * Math.sin(i) : 0)
const CASTS = [
  ['BF16', 'F32'],
  ['F32', 'BF16'],
  ['BF16', 'F16'],
  ['F16', 'F32'],
] as const
const BYTES = ['F8_E4M3', 'F8_E5M2', 'BOOL', 'U8', 'I16', 'I32', 'I64', 'F4', 'F6_E2M3'] as const
/** Bytes of a tensor that ends a little after its second frame. */
const LONG = 2 * FRAME_BYTES + 777 * 4
/** Rows of 700 BF16 that take about as much. */
const ROWS = Math.ceil(LONG / 1400)

const empty = (name: string, shape: readonly number[]): Sample => {
  return { name, dtype: 'F32', shape, bytes: new Uint8Array(0) }
}

/** Pairs of base and fine-tune whose structures differ. */
const STRUCTURES: Readonly<Record<string, readonly [base: Sample[], tuned: Sample[]]>> = {
  'a grown vocabulary': [
    [tensor('embed', 'BF16', [301, 96]), tensor('w', 'BF16', [64, 96])],
    [tensor('embed', 'BF16', [333, 96], drift), tensor('w', 'BF16', [64, 96], drift)],
  ],
  'a shrunk vocabulary': [
    [tensor('embed', 'F32', [333, 96])],
    [tensor('embed', 'F32', [301, 96], drift)],
  ],
  'a vocabulary that grows across frames': [
    [tensor('embed', 'BF16', [ROWS, 700])],
    [tensor('embed', 'BF16', [2 * ROWS, 700], drift)],
  ],
  'a new and a dropped tensor': [
    [tensor('a', 'BF16', [40, 40]), tensor('dropped', 'BF16', [40, 41])],
    [tensor('a', 'BF16', [40, 40], drift), tensor('new', 'BF16', [41, 40])],
  ],
  'a renamed tensor': [
    [tensor('a', 'BF16', [40, 40]), tensor('bb', 'F16', [999])],
    [tensor('a', 'BF16', [40, 40]), { ...tensor('bb', 'F16', [999]), name: 'model.bb' }],
  ],
  ...Object.fromEntries(
    CASTS.map(([from, to]) => [
      `${from} to ${to}`,
      [
        [tensor('w', from, [300, 301]), tensor('same', from, [50, 50])],
        [tensor('w', to, [300, 301], drift), tensor('same', to, [50, 50])],
      ] as const,
    ]),
  ),
  'another dtype and a grown vocabulary': [
    [tensor('w', 'BF16', [ROWS, 700])],
    [tensor('w', 'F32', [ROWS + 5, 700], drift)],
  ],
  'what is not floating point': [
    BYTES.map(dtype => bytesOf(dtype, dtype, [64, 64], 0)),
    BYTES.map(dtype => bytesOf(dtype, dtype, [64, 64], 1)),
  ],
  'tied tensors': [
    [tensor('embed', 'BF16', [128, 96]), { ...tensor('embed', 'BF16', [128, 96]), name: 'head' }],
    [
      tensor('embed', 'BF16', [128, 96], drift),
      { ...tensor('embed', 'BF16', [128, 96], drift), name: 'head' },
    ],
  ],
  'several empty tensors': [
    [empty('z', [0, 3]), tensor('w', 'F32', [2]), empty('b', [4, 0]), empty('m', [0])],
    [empty('z', [0, 3]), tensor('w', 'F32', [2]), empty('b', [4, 0]), empty('a', [0, 7])],
  ],
  'frames with a few changed blocks': [
    [tensor('w', 'BF16', [LONG / 2]), tensor('v', 'F32', [LONG / 4])],
    ['w' as const, 'v' as const].map(name => {
      const change = (value: number, i: number) => ((i >> 9) % 20 === 7 ? drift(value, i) : value)
      return name === 'w'
        ? tensor('w', 'BF16', [LONG / 2], change)
        : tensor('v', 'F32', [LONG / 4], change)
    }),
  ],
  'frames with a few changed elements': [
    [tensor('w', 'BF16', [LONG / 2]), tensor('v', 'F16', [LONG / 2])],
    [
      tensor('w', 'BF16', [LONG / 2], (value, i) => (i % 40_001 === 9 ? -value : value)),
      tensor('v', 'F16', [LONG / 2], (value, i) => (i % 70_001 === 9 ? value + 1 : value)),
    ],
  ],
  'models that share nothing': [
    [tensor('a', 'BF16', [40, 40])],
    [bytesOf('noise', 'U8', [4000], 5), tensor('b', 'F32', [9, 9]), tensor('zero', 'F16', [0])],
  ],
}

t.test('the pairs', async t => {
  const models: readonly (readonly [base: string, tuned: string])[] = [
    ['base', 'light'],
    ['base', 'sft-300'],
    ['base', 'sft-450'],
    ['sft-300', 'sft-450'],
    ['light', 'light'],
  ]
  for (const [from, to] of models) {
    const pair = { base: join(PAIRS, from), tuned: join(PAIRS, to) }
    const delta = await comesBack(t, join(t.testdir({}), 'out'), pair)
    const ours = join(pair.tuned, 'model.safetensors')
    const answer = await reference.ask({ do: 'load', deltas: [delta], base: pair.base, ours })
    t.match(answer.error, /Unsupported \.wdelta version 2\b/, 'the reference says what it is')
  }
})

for (const [name, [base, tuned]] of Object.entries(STRUCTURES)) {
  t.test(name, async t => {
    for (const [baseShards, tunedShards] of [
      [1, 3],
      [3, 1],
    ] as const) {
      const folder = t.testdir({})
      await comesBack(t, join(folder, 'out'), {
        base: writeModel(join(folder, 'base'), base, baseShards),
        tuned: writeModel(join(folder, 'tuned'), tuned, tunedShards),
      })
    }
  })
}

for (const dtype of ['BF16', 'F16', 'F32'] as const) {
  t.test(`shapes with nothing round about them, of ${dtype}`, async t => {
    for (const shards of [1, 3]) {
      const folder = t.testdir({})
      const samples = sampleBase(dtype)
      await comesBack(t, join(folder, 'out'), {
        base: writeModel(join(folder, 'base'), samples, shards),
        tuned: writeModel(join(folder, 'tuned'), sampleTuned(samples, dtype, 2), shards),
      })
    }
  })
}

t.test('generated models and chains of them', async t => {
  const seen = new Set<string>()
  for (let seed = 0; seed < LINEAGES; seed++) {
    const depth = seed % CHAIN_EVERY === 3 ? 8 : 1
    const lineage = generateLineage(seed, depth)
    for (const feature of lineage.features) seen.add(feature)
    const folder = t.testdir({})
    const base = writeFolder(join(folder, 'base'), lineage.base)
    const parentDeltas: string[] = []
    let parent = base
    for (const [i, fineTune] of lineage.fineTunes.entries()) {
      const tuned = writeFolder(join(folder, `tuned-${i}`), fineTune)
      const pair = { base, tuned, parent, parentDeltas }
      const out = join(folder, `out-${i}`)
      parentDeltas.push(await comesBack(t, out, pair))
      // From here on the reader builds on what it read itself.
      parent = out
    }
    if (!t.passing()) return t.comment(`seed ${seed}`)
  }
  const missing = FEATURES.filter(feature => !seen.has(feature))
  t.strictSame(missing, [], 'features that no lineage has')
})

t.test('the reader is one that refuses', async t => {
  const folder = t.testdir({})
  const base = join(PAIRS, 'base')
  const delta = join(folder, 'd.wdelta')
  const models = ['--tuned', join(PAIRS, 'light'), '--base', base]
  t.equal((await wdelta('save', delta, ...models)).code, 0)
  const out = join(folder, 'out')
  t.match(readV2(delta, join(PAIRS, 'sft-300'), out), /^parent: another model/)
  const file = readFileSync(delta)
  for (const at of [0, 7, 12, 40, file.length >> 1, file.length - 100, file.length - 1]) {
    const bytes = Buffer.from(file)
    bytes[at]! ^= 1
    writeFileSync(delta, bytes)
    t.type(readV2(delta, base, out), 'string', `a bit of byte ${at}`)
  }
  writeFileSync(delta, file.subarray(0, -1))
  t.type(readV2(delta, base, out), 'string', 'cut')
})

t.test('every encoding of the page was read', async t => {
  t.strictSame([...encodings].sort(), [...ENCODINGS].sort())
})
