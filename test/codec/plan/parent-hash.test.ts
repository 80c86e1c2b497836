import t from 'tap'
import type { Dtype } from '../../../src/codec/base/dtypes.ts'
import { complete } from '../../../src/codec/base/steps.ts'
import {
  canWidenAll,
  hashInputs,
  hashOrdersSteps,
  likelyDomains,
  type NamedTensors,
  recordOrdersSteps,
  writtenParentSteps,
} from '../../../src/codec/plan/parent-hash.ts'
import { type BaseShard, baseRecipes } from '../../../src/codec/plan/recipes.ts'
import { buildLayout } from '../../../src/codec/safetensors/write-header.ts'

function shard(path: string, names: readonly string[], dtype: Dtype = 'BF16'): BaseShard {
  const tensors = names.map(name => ({ name, dtype, shape: [4] }))
  return { path, blob: path, layout: buildLayout(tensors, null) }
}

/** A delta whose records come in this order. */
function delta(names: readonly string[]): NamedTensors {
  return { tensors: names.map(name => ({ name })) }
}

/** Two files whose names interleave: the reference loads a and c, then b. */
const SHARDS = [shard('1.safetensors', ['c', 'a']), shard('2.safetensors', ['b'])]
const RECIPES = baseRecipes(SHARDS)

t.test('a parent in files is hashed as stored, the end of a chain in float32', async t => {
  t.strictSame(likelyDomains(SHARDS, true), ['stored', 'float32'])
  t.strictSame(likelyDomains(null, true), ['float32', 'stored'])
  t.strictSame(likelyDomains(SHARDS, false), ['stored'])
  t.strictSame(likelyDomains(null, false), ['stored'])
})

t.test('values that cannot be widened have no hash in float32', async t => {
  t.equal(canWidenAll(RECIPES), true)
  t.equal(canWidenAll(baseRecipes([shard('a.safetensors', ['a'], 'F4')])), false)
})

t.test('a writer takes the records file by file, and by name where there are no files', async t => {
  const names = ['b', 'c', 'a']
  t.strictSame(complete(writtenParentSteps(SHARDS, names, true)), {
    domain: 'stored',
    records: ['a', 'c', 'b'],
    hashesAll: false,
  })
  t.strictSame(complete(writtenParentSteps(null, names, true)), {
    domain: 'float32',
    records: ['a', 'b', 'c'],
    hashesAll: true,
  })
  t.equal(complete(writtenParentSteps(null, names, false)).domain, 'stored')
})

t.test(
  'a reader tries the order of the records first for files, all names for a chain',
  async t => {
    const named = delta(['c', 'b'])
    t.strictSame(complete(recordOrdersSteps(named, SHARDS)), [
      ['c', 'b'],
      ['b', 'c'],
      ['b', 'c'],
    ])
    t.strictSame(complete(hashOrdersSteps({ recipes: RECIPES, shards: SHARDS }, named)), [
      ['c', 'b'],
      ['b', 'c'],
      ['b', 'c'],
      ['a', 'b', 'c'],
      ['a', 'c', 'b'],
    ])
    t.strictSame(complete(hashOrdersSteps({ recipes: RECIPES, shards: null }, named)), [
      ['a', 'b', 'c'],
      ['b', 'c'],
      ['c', 'b'],
    ])
  },
)

t.test('no order is hashed twice', async t => {
  const orders = [
    ['a', 'b'],
    ['b', 'a'],
    ['a', 'b'],
  ]
  t.strictSame(
    [...hashInputs(orders, ['stored', 'float32'])],
    [
      { names: ['a', 'b'], domain: 'stored' },
      { names: ['a', 'b'], domain: 'float32' },
      { names: ['b', 'a'], domain: 'stored' },
      { names: ['b', 'a'], domain: 'float32' },
    ],
  )
})
