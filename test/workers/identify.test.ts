import { Worker } from 'node:worker_threads'
import t from 'tap'
import { BlockSummer } from '../../src/codec/base/block-sums.ts'
import { DTYPE_BITS, type Dtype } from '../../src/codec/base/dtypes.ts'
import { FRAME_BYTES } from '../../src/codec/base/limits.ts'
import type { Span } from '../../src/codec/base/ranges.ts'
import { canWiden } from '../../src/codec/base/widen.ts'
import { planHash } from '../../src/codec/plan/plan.ts'
import { type BaseShard, baseRecipes, type Recipes } from '../../src/codec/plan/recipes.ts'
import { nameOrder } from '../../src/codec/safetensors/model-folder.ts'
import { buildLayout, type DescribedTensor } from '../../src/codec/safetensors/write-header.ts'
import type { ByteSource } from '../../src/workers/byte-source.ts'
import type { Engine } from '../../src/workers/engine.ts'
import { hashTensors, identify } from '../../src/workers/identify.ts'
import { threadKernels } from '../../src/workers/kernels.ts'
import { openPool, type Pool } from '../../src/workers/pool.ts'
import type { TaskMessage } from '../../src/workers/tasks.ts'
import { engineOver, sourceOf } from '../support/engine.ts'
import { Random } from '../support/random.ts'

const DTYPES = Object.keys(DTYPE_BITS) as Dtype[]
/** Tensors that a task has at most: each has a name and values. */
const MAX_SEGMENTS = 1024

/** The bytes of a file with random ones for values: infinities, numbers that are not, and what is too large for float32. */
function randomFile(tensors: readonly DescribedTensor[], seed: number) {
  const random = new Random(seed)
  const layout = buildLayout(tensors, null)
  const bytes = new Uint8Array(layout.size)
  const words = new Uint32Array(bytes.buffer, 0, layout.size >> 2)
  for (let i = 0; i < words.length; i++) words[i] = random.next()
  return { layout, bytes }
}

/** A model over blobs `0`, `1`, and so on, one for each file. */
function modelOf(files: readonly (readonly DescribedTensor[])[]) {
  const made = files.map((tensors, i) => ({ ...randomFile(tensors, i), blob: String(i) }))
  const shards = made.map(({ layout, blob }): BaseShard => ({ path: blob, layout, blob }))
  const recipes = baseRecipes(shards)
  const blobs = new Map(made.map(({ blob, bytes }) => [blob, bytes]))
  return { recipes, blobs, names: nameOrder(recipes.keys()) }
}

/** An engine over blobs in memory, which are fetched, unless `members` says otherwise. */
function engineOf(
  pool: Pool,
  blobs: ReadonlyMap<string, Uint8Array>,
  members: Partial<ByteSource> = {},
): Engine {
  const read = async ({ blob, start, end }: Span) => blobs.get(blob)!.slice(start, end)
  return engineOver(pool, sourceOf(read, members))
}

/** What {@link hashTensors} gives, each taken in a pass of its own. */
async function oneByOne(
  engine: Engine,
  recipes: Recipes,
  { names, widens }: { names: readonly string[]; widens: boolean },
) {
  const stored = await engine.digest(planHash(recipes, names, 'stored'))
  const float32 = widens ? await engine.digest(planHash(recipes, names, 'float32')) : null
  return { stored, float32, identity: await identify(engine, recipes) }
}

/** Tensors of a dtype: one of a frame and a little more, one of a few values, one of none, and a scalar. */
const tensorsOf = (dtype: Dtype): DescribedTensor[] =>
  [[FRAME_BYTES / Math.ceil(DTYPE_BITS[dtype] / 8) + 1000], [3, 8], [0, 7], []].flatMap(
    (shape, i) =>
      // A scalar of F4 has no whole byte.
      shape.length === 0 && !canWiden(dtype) ? [] : [{ name: `${9 - i}.${dtype}`, dtype, shape }],
  )

t.test('in one pass a model has the hashes and the identity that each pass gives', async t => {
  await using pool = await openPool({ workers: 2 })
  for (const dtype of DTYPES) {
    const { recipes, blobs, names } = modelOf([tensorsOf(dtype)])
    const asked = { names, widens: canWiden(dtype) }
    const engine = engineOf(pool, blobs)
    const found = await hashTensors(engine, recipes, asked)
    t.strictSame(found, await oneByOne(engine, recipes, asked), dtype)
  }
  const whole = DTYPES.filter(canWiden).flatMap(dtype =>
    [[5, 4], [0]].map((shape, i) => ({ name: `${i} ${dtype} ü\u{1f600}`, dtype, shape })),
  )
  const unnamed = { name: '', dtype: 'F16', shape: [4] } as const
  for (const [what, files] of Object.entries({
    'all dtypes, in one file': [[unnamed, ...whole]],
    'all dtypes, in three': [whole.slice(0, 9), [unnamed], whole.slice(9)],
    'no tensor at all': [[]],
    'no value at all': [[{ name: 'a', dtype: 'BF16' as const, shape: [0] }]],
  })) {
    const { recipes, blobs, names } = modelOf(files)
    const engine = engineOf(pool, blobs)
    for (const widens of [false, true]) {
      const found = await hashTensors(engine, recipes, { names, widens })
      t.strictSame(found, await oneByOne(engine, recipes, { names, widens }), what)
    }
  }
})

t.test('tensors of a few bytes make tasks of bounded length', async t => {
  await using pool = await openPool({ workers: 1 })
  const sent = t.capture(Worker.prototype, 'postMessage', Worker.prototype.postMessage)
  const tensors = Array.from({ length: 20_000 }, (_, i) => {
    const shape = [i % 3]
    return { name: `t${i}`, dtype: i % 2 === 0 ? ('BF16' as const) : ('I64' as const), shape }
  })
  const { recipes, blobs, names } = modelOf([tensors])
  const engine = engineOf(pool, blobs)
  const found = await hashTensors(engine, recipes, { names, widens: true })
  const tasks = sent().map(({ args: [message] }) => (message as TaskMessage).task)
  const lengths = tasks.map(task => (task.kind === 'hash-model' ? task.pieces.length : 0))
  t.ok(Math.max(...lengths) <= MAX_SEGMENTS, `${Math.max(...lengths)} pieces in a task`)
  t.ok(lengths.length <= 40, `${lengths.length} tasks`)
  t.strictSame(found, await oneByOne(engine, recipes, { names, widens: true }))
})

t.test('a batch that fails halfway is hashed once, when it is read again', async t => {
  await using pool = await openPool({ workers: 2 })
  const tensors = Array.from({ length: 12 }, (_, i) => {
    return { name: String.fromCharCode(97 + i), dtype: 'BF16' as const, shape: [300_000] }
  })
  const { recipes, blobs, names } = modelOf([tensors])
  const summer = new BlockSummer(bytes => threadKernels().machine.checksum(bytes))
  summer.push(blobs.get('0')!)
  const sums = summer.end()
  const expected = await oneByOne(engineOf(pool, blobs), recipes, { names, widens: true })
  /** Reads of which every fifth is bad in its last byte: the tensors of its task before it are hashed by then. */
  let reads = 0
  const fetch = async ({ blob, start, end }: Span) => {
    const bytes = blobs.get(blob)!.slice(start, end)
    if (++reads % 5 === 0) bytes[bytes.length - 1]! ^= 1
    return bytes
  }
  let failures = 0
  const members: Partial<ByteSource> = {
    fetch,
    checksumsOf: () => sums,
    retry: async () => {
      failures++
      return engineOf(pool, blobs, members).source
    },
  }
  const found = await hashTensors(engineOf(pool, blobs, members), recipes, {
    names,
    widens: true,
  })
  t.ok(failures > 1, `${failures} failures`)
  t.strictSame(found, expected)
  const whole = { ...members, retry: async () => null }
  const engine = engineOf(pool, blobs, whole)
  await t.rejects(hashTensors(engine, recipes, { names, widens: true }), { name: 'BlockError' })
})

t.test('a hash of a model ends with its signal, or with its worker', async t => {
  const sent = t.capture(Worker.prototype, 'postMessage', Worker.prototype.postMessage)
  await using pool = await openPool({ workers: 1 })
  const worker = sent()[0]!.receiver as Worker
  const { recipes, blobs, names } = modelOf([tensorsOf('BF16'), tensorsOf('F64')])
  const hash = (members: Partial<ByteSource>, signal?: AbortSignal) =>
    hashTensors(engineOf(pool, blobs, members), recipes, { names, widens: true }, signal)
  const abort = new AbortController()
  let reads = 0
  /** Does `work` at the third read: in the middle of a tensor. */
  const atThird = (work: () => unknown) => {
    reads = 0
    return async ({ blob, start, end }: Span) => {
      if (++reads === 3) await work()
      return blobs.get(blob)!.slice(start, end)
    }
  }
  const gone = hash({ fetch: atThird(() => abort.abort(new Error('gone'))) }, abort.signal)
  await t.rejects(gone, { message: 'gone' })
  const died = hash({ fetch: atThird(() => worker.terminate()) })
  await t.rejects(died, { message: /died/ })
  const engine = engineOf(pool, blobs)
  t.strictSame(await hash({}), await oneByOne(engine, recipes, { names, widens: true }))
})
