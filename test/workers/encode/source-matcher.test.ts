import t, { type Test } from 'tap'
import { FRAME_BYTES } from '../../../src/codec/base/limits.ts'
import { baseRecipes, type Recipe } from '../../../src/codec/plan/recipes.ts'
import { buildLayout, type DescribedTensor } from '../../../src/codec/safetensors/write-header.ts'
import { sized } from '../../../src/codec/wdelta/v2/format.ts'
import { type Described, SourceMatcher } from '../../../src/workers/encode/source-matcher.ts'
import { openPool, type Pool } from '../../../src/workers/pool.ts'
import { engineOver, sourceOf } from '../../support/engine.ts'

/** Bytes at the beginning of a tensor by which it is recognised. */
const PROBE_BYTES = 65_536
/** Tensors of one dtype and shape that are compared. */
const MAX_PROBED = 1024

let pool: Pool
t.before(async () => {
  pool = await openPool({ workers: 1 })
})
t.teardown(() => pool.close())

/** A tensor of a model: its bytes are `value` throughout, but for what `at` says. */
interface Tensor extends DescribedTensor {
  readonly value: number
  readonly at?: Readonly<Record<number, number>>
}

const bf16 = (name: string, value: number, shape: readonly number[] = [4, 8]): Tensor => {
  return { name, dtype: 'BF16', shape, value }
}

/** A matcher over a parent of these tensors; `reads` counts what is read of each blob, of which each tensor is one. */
function matcherOver(tensors: readonly Tensor[]) {
  const contents = new Map<string, Uint8Array>()
  const recipes = new Map<string, Recipe>()
  for (const tensor of tensors) {
    const layout = buildLayout([tensor], null)
    const file = new Uint8Array(layout.size).fill(tensor.value, layout.header.length)
    for (const [at, value] of Object.entries(tensor.at ?? {})) {
      file[layout.header.length + Number(at)] = value
    }
    contents.set(tensor.name, file)
    const shard = { path: 'model.safetensors', layout, blob: tensor.name }
    for (const [name, recipe] of baseRecipes([shard])) recipes.set(name, recipe)
  }
  const reads: string[] = []
  const source = sourceOf(async ({ blob, start, end }) => {
    reads.push(blob)
    return contents.get(blob)!.slice(start, end)
  })
  return { matcher: new SourceMatcher(recipes, engineOver(pool, source), undefined), reads }
}

/** A tensor of a fine-tune as the matcher is asked for it, and its first frame; null where it has no bytes. */
function asked({ value, at = {}, ...described }: Tensor): [Described, Uint8Array | null] {
  const [placed] = buildLayout([described], null).tensors
  const tensor = sized(placed!)
  if (tensor.bytes === 0) return [tensor, null]
  const frame = new Uint8Array(Math.min(tensor.bytes, FRAME_BYTES)).fill(value)
  for (const [place, byte] of Object.entries(at)) frame[Number(place)] = byte
  return [tensor, frame]
}

/** The name of the tensor that predicts one. */
async function found(matcher: SourceMatcher, tensor: Tensor): Promise<string | null> {
  return (await matcher.find(...asked(tensor)))?.name ?? null
}

t.test('a tensor is predicted by that of its name, and nothing is read for it', async t => {
  const { matcher, reads } = matcherOver([bf16('a', 1), bf16('b', 2)])
  t.equal(await found(matcher, bf16('a', 2)), 'a', 'though another begins like it')
  t.equal(await found(matcher, bf16('b', 9)), 'b')
  t.strictSame(reads, [])
})

t.test('the first dimension and the float dtype may be others, and nothing else', async t => {
  const { matcher } = matcherOver([
    bf16('w', 1),
    { name: 'ids', dtype: 'I64', shape: [4], value: 1 },
  ])
  t.equal(await found(matcher, bf16('w', 5, [9, 8])), 'w', 'grown')
  t.equal(await found(matcher, { ...bf16('w', 5), dtype: 'F32' }), 'w', 'cast')
  t.equal(await found(matcher, bf16('w', 5, [4, 9])), null, 'another inner dimension')
  t.equal(await found(matcher, bf16('w', 5, [32])), null, 'another rank')
  t.equal(await found(matcher, { name: 'ids', dtype: 'I32', shape: [4], value: 5 }), null)
  t.equal(await found(matcher, { name: 'ids', dtype: 'F32', shape: [4], value: 5 }), null)
})

t.test('one with another name is recognised by its first bytes', async t => {
  const { matcher } = matcherOver([bf16('a', 1), bf16('b', 2), bf16('long', 3, [40, 8])])
  t.equal(await found(matcher, bf16('renamed', 2)), 'b')
  t.equal(await found(matcher, bf16('other', 7)), null)
  t.equal(await found(matcher, bf16('shorter', 3)), null, 'of the same shape alone')
  t.equal(await found(matcher, { ...bf16('cast', 2), dtype: 'F16' }), null, 'and dtype')
})

t.test('what comes behind its first bytes does not count', async t => {
  const shape = [PROBE_BYTES]
  const { matcher } = matcherOver([bf16('a', 1, shape), { ...bf16('b', 1, shape), at: { 5: 9 } }])
  const behind = { ...bf16('renamed', 1, shape), at: { [PROBE_BYTES]: 7 } }
  t.equal(await found(matcher, behind), 'a')
  const last = { ...bf16('renamed', 1, shape), at: { [PROBE_BYTES - 1]: 7 } }
  t.equal(await found(matcher, last), null)
})

t.test('tensors of one kind are read once, however many are looked for', async t => {
  const { matcher, reads } = matcherOver([bf16('a', 1), bf16('b', 2), bf16('large', 1, [40, 8])])
  for (const name of ['x', 'y', 'z']) await found(matcher, bf16(name, 7))
  t.strictSame(reads.sort(), ['a', 'b'])
})

t.test('a tied tensor is predicted by what predicted the one before it', async t => {
  const { matcher, reads } = matcherOver([bf16('embed', 1)])
  // It changed: no tensor of the parent begins like this.
  t.equal(await found(matcher, bf16('embed', 8)), 'embed')
  t.equal(await found(matcher, bf16('head', 8)), 'embed')
  t.strictSame(reads, [])
  t.equal(await found(matcher, bf16('another', 9)), null)
})

t.test('one whose name has a prefix more, or less, is recognised by its name', async t => {
  const { matcher } = matcherOver([
    bf16('layers.0.w', 1),
    bf16('base_model.model.head.w', 2),
    bf16('a.b.c.d.e', 3),
  ])
  t.equal(await found(matcher, bf16('model.layers.0.w', 8)), 'layers.0.w')
  t.equal(await found(matcher, bf16('head.w', 9)), 'base_model.model.head.w')
  t.equal(await found(matcher, bf16('e', 10)), 'a.b.c.d.e', 'four parts')
  t.equal(await found(matcher, bf16('1.2.3.4.layers.0.w', 11)), 'layers.0.w')
  t.equal(await found(matcher, bf16('1.2.3.4.5.layers.0.w', 12)), null, 'five are too many')
  t.equal(await found(matcher, bf16('yers.0.w', 13)), null, 'a prefix ends with a dot')
  t.equal(await found(matcher, bf16('model.layers.0.w', 14, [3, 3])), null, 'of the same shape')
})

t.test('of several that a name is the end of, the first of the model counts', async t => {
  const { matcher } = matcherOver([bf16('x.w', 1), bf16('y.w', 2)])
  t.equal(await found(matcher, bf16('w', 8)), 'x.w')
})

t.test('bytes count before names', async t => {
  const { matcher } = matcherOver([bf16('layers.0.w', 1), bf16('layers.1.w', 2)])
  t.equal(await found(matcher, bf16('model.layers.0.w', 2)), 'layers.1.w')
})

t.test('a tensor without bytes has the one of its name, or none', async t => {
  const { matcher, reads } = matcherOver([bf16('none', 0, [0, 8]), bf16('other', 0, [0, 8])])
  t.equal(await found(matcher, bf16('none', 0, [0, 8])), 'none')
  t.equal(await found(matcher, bf16('model.none', 0, [0, 8])), null)
  t.strictSame(reads, [])
})

t.test('a bounded number of tensors is compared, and all of them by name', async (t: Test) => {
  const shape = [2]
  const many = Array.from({ length: MAX_PROBED + 2 }, (_, i) => ({
    ...bf16(`model.t${i}`, 0, shape),
    at: { 0: i & 255, 1: i >> 8 },
  }))
  const { matcher, reads } = matcherOver(many)
  const last = many.at(-1)!
  t.equal(await found(matcher, { ...last, name: 'renamed' }), null)
  t.equal(reads.length, MAX_PROBED)
  t.equal(await found(matcher, { ...last, name: `t${MAX_PROBED + 1}` }), last.name)
})

t.test('a parent that cannot be read fails the search, and an abort ends it', async t => {
  const recipes = baseRecipes([
    { path: 'm', layout: buildLayout([bf16('a', 1)], null), blob: 'gone' },
  ])
  const unread = engineOver(
    pool,
    sourceOf(() => Promise.reject(new Error('unread'))),
  )
  const failing = new SourceMatcher(recipes, unread, undefined)
  await t.rejects(failing.find(...asked(bf16('b', 1))), { message: 'unread' })
  const abort = AbortSignal.abort(new Error('gone'))
  const aborted = new SourceMatcher(recipes, unread, abort)
  await t.rejects(aborted.find(...asked(bf16('b', 1))), { message: 'gone' })
})
