import t from 'tap'
import { DTYPE_BITS, type Dtype } from '../../../src/codec/base/dtypes.ts'
import { sortSteps } from '../../../src/codec/base/sort.ts'
import type { Steps } from '../../../src/codec/base/steps.ts'
import { utf8 } from '../../../src/codec/base/utf8.ts'
import { applyLinkSteps, baseRecipesSteps } from '../../../src/codec/plan/recipes.ts'
import { parseLayoutSteps, readHeaderSteps } from '../../../src/codec/safetensors/header.ts'
import { identityBytes, identitySteps } from '../../../src/codec/safetensors/identity.ts'
import { LayoutReader } from '../../../src/codec/safetensors/layout-reader.ts'
import {
  assembleTensorsSteps,
  checkShardIndexSteps,
  nameOrder,
  nameOrderSteps,
  shardOrder,
  shardOrderSteps,
} from '../../../src/codec/safetensors/model-folder.ts'
import {
  buildLayoutSteps,
  type DescribedTensor,
} from '../../../src/codec/safetensors/write-header.ts'

/** Tensors of every kind that is small: empty ones, scalars, long names, many dimensions, all dtypes. */
function tiny(count: number): DescribedTensor[] {
  const dtypes = Object.keys(DTYPE_BITS) as Dtype[]
  const shapes = [[0], [], [1], [4, 1], Array(15).fill(1), [0, 2 ** 32]]
  return Array.from({ length: count }, (_, i) => {
    const dtype = dtypes[i % dtypes.length]!
    const shape = shapes[i % shapes.length]!
    const bits = shape.reduce((n, dimension) => n * dimension, 1) * DTYPE_BITS[dtype]
    const name = `${i % 1000 === 0 ? 'é'.repeat(500) : ''}tensor.${i}`
    return { name, dtype, shape: bits % 8 === 0 ? shape : [...shape, 4] }
  })
}

/** Runs steps, and tells how many they are. */
function counted<T>(steps: Steps<T>): { value: T; steps: number } {
  for (let count = 1; ; count++) {
    const { done, value } = steps.next()
    if (done) return { value, steps: count }
  }
}

/** Most comparisons between two steps of sorting these. */
function mostCompared(items: readonly number[]): number {
  let most = 0
  let compared = 0
  const sorting = sortSteps(items, (a, b) => {
    most = Math.max(most, ++compared)
    return a - b
  })
  while (!sorting.next().done) compared = 0
  return most
}

t.test('a header is laid out and read in many small steps', async t => {
  const small = counted(buildLayoutSteps(tiny(15_000), null))
  const large = counted(buildLayoutSteps(tiny(60_000), null))
  t.ok(large.steps > 150 && large.steps < small.steps * 5, `${small.steps}, then ${large.steps}`)
  const { header, size } = large.value
  const read = counted(readHeaderSteps(header))
  t.ok(read.steps > header.length / 20_000, `${read.steps} for ${header.length} bytes`)
  t.strictSame(read.value, large.value)
  t.strictSame(counted(parseLayoutSteps(header, size)).value, large.value)
})

t.test('equal shapes of a header are one list', async t => {
  const { header } = counted(buildLayoutSteps(tiny(1000), null)).value
  const { tensors } = counted(readHeaderSteps(header)).value
  t.ok(new Set(tensors.map(({ shape }) => shape)).size < 40)
})

t.test('a header that comes in pieces is parsed in steps, and a fault shows then', async t => {
  const { header, size } = counted(buildLayoutSteps(tiny(20_000), null)).value
  const reader = new LayoutReader()
  t.equal(reader.take(header.subarray(0, 7)), null)
  t.equal(reader.take(header.subarray(7, -1)), null)
  const steps = reader.take(header.subarray(-1))
  t.equal(reader.layout, null, 'not before they have run')
  t.ok(counted(steps!).steps > 20)
  t.equal(reader.layout?.size, size)

  const broken = header.slice()
  broken[broken.lastIndexOf(0x7d)] = 0x5d
  const early = new LayoutReader()
  const failing = early.take(broken)!
  t.throws(() => counted(failing), { name: 'CodecError', rule: 'json-syntax' })
})

t.test('sorting is stable, as Array.sort, and takes small steps whatever the order', async t => {
  const orders = {
    sorted: Array.from({ length: 50_000 }, (_, i) => i),
    reversed: Array.from({ length: 50_000 }, (_, i) => -i),
    shuffled: Array.from({ length: 50_001 }, (_, i) => (i * 7919) % 50_021),
    equal: Array<number>(3000).fill(1),
    short: [2, 1],
    empty: [],
  }
  for (const [order, items] of Object.entries(orders)) {
    const pairs = items.map((key, i) => ({ key: key % 1000, i }))
    const byKey = (a: { key: number }, b: { key: number }) => a.key - b.key
    t.strictSame(counted(sortSteps(pairs, byKey)).value, pairs.toSorted(byKey), order)
    t.ok(mostCompared(items) < 20_000, order)
  }
})

t.test('a model of many shards with a few tensors each is put together in steps', async t => {
  const tensors = tiny(20_000)
  const shards = Array.from({ length: 400 }, (_, i) => {
    const { value: layout } = counted(buildLayoutSteps(tensors.slice(i * 50, i * 50 + 50), null))
    return { path: `${i}.safetensors`, layout, blob: `${i}` }
  })
  const placed = counted(assembleTensorsSteps(shards))
  const recipes = counted(baseRecipesSteps(shards))
  const names = counted(nameOrderSteps(recipes.value.keys()))
  const ordered = counted(shardOrderSteps(shards, names.value))
  const weightMap = Object.fromEntries(
    Array.from(placed.value, ([name, { shard }]) => [name, shards[shard]!.path]),
  )
  const index = utf8(JSON.stringify({ weight_map: weightMap }))
  const indexed = counted(checkShardIndexSteps(index, shards))
  for (const { steps } of [placed, recipes, names, ordered, indexed]) t.ok(steps >= 19, `${steps}`)
  t.strictSame(names.value, nameOrder(recipes.value.keys()))
  t.strictSame(ordered.value, shardOrder(shards, names.value))

  const digests = Uint8Array.from({ length: tensors.length * 32 }, (_, i) => i)
  const taken: Uint8Array[] = []
  const identity = counted(identitySteps(tensors, digests, bytes => taken.push(bytes)))
  t.ok(identity.steps >= 19)
  const each = tensors.map((tensor, i) => ({
    ...tensor,
    digest: digests.subarray(i * 32, i * 32 + 32),
  }))
  t.strictSame(Buffer.concat(taken), Buffer.concat([...identityBytes(each)]))
})

t.test('a delta of many tensors is applied in steps', async t => {
  const { value: layout } = counted(buildLayoutSteps(tiny(20_000), null))
  const shards = [{ path: 'model.safetensors', layout, blob: 'base' }]
  const { value: parent } = counted(baseRecipesSteps(shards))
  const tensors = layout.tensors.map(({ name, dtype, shape }) => ({
    ...{ name, dtype, shape, count: 0, bytes: 0, firstFrame: 0 },
    source: { name, dtype, shape },
  }))
  const frames = {
    encodings: new Uint8Array(0),
    records: new Uint32Array(0),
    checksums: new BigUint64Array(0),
  }
  const records = {
    starts: new Float64Array(0),
    lengths: new Uint32Array(0),
    checksums: new BigUint64Array(0),
  }
  const named = { format: 2, strategy: 'lossless', parentHash: '', parentIdentity: '' } as const
  const index = { ...named, size: 0, shards: [], tensors, frames, records }
  const applied = counted(applyLinkSteps(parent, { blob: 'delta', index, domain: 'stored' }))
  t.ok(applied.steps >= 19)
  t.strictSame([...applied.value.keys()], [...parent.keys()])
})
