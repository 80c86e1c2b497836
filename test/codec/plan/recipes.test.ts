import t from 'tap'
import { LIMITS } from '../../../src/codec/base/limits.ts'
import type { Encoding } from '../../../src/codec/frames/frame-encodings.ts'
import { planTensor, storedBytes } from '../../../src/codec/plan/plan.ts'
import { applyLink, blobsOf, type Recipe, type Recipes } from '../../../src/codec/plan/recipes.ts'
import {
  addition,
  baseOf,
  losslessLink,
  type MadeUpTensor,
} from '../../support/models/made-up-lineages.ts'

type Described = Pick<Recipe, 'name' | 'dtype' | 'shape'>

const W = { name: 'w', dtype: 'BF16', shape: [3, 8] } as const

const tensor = (
  described: Described,
  source: Described | null,
  ...encodings: Encoding[]
): MadeUpTensor => ({ ...described, source, encodings })

const opsOf = ({ steps }: Recipe) => steps.map(({ op }) => op)

t.test(
  'a tensor of which every frame is copy is its parent’s, however long the lineage',
  async t => {
    const base = baseOf(W).recipes
    let recipes: Recipes = base
    for (let level = 1; level <= LIMITS.chainDepth; level++) {
      recipes = applyLink(recipes, losslessLink(`delta ${level}`, [tensor(W, W, 'copy')]))
    }
    t.equal(recipes.get('w'), base.get('w'), 'nothing of the models between is held')
    t.strictSame([...blobsOf(recipes.get('w')!)], ['base'])
  },
)

t.test('it is found under its own name, and has its own shape', async t => {
  const empty = { name: 'none', dtype: 'F32', shape: [0, 4] } as const
  const base = baseOf(W, empty).recipes
  const renamed = { ...W, name: 'model.w' }
  const wider = { ...empty, shape: [0, 4], name: 'still none' }
  const made = applyLink(
    base,
    losslessLink('delta', [tensor(renamed, W, 'copy'), tensor(wider, empty)]),
  )
  t.strictSame([...made.keys()].sort(), ['model.w', 'still none'])
  t.match(made.get('model.w'), { name: 'model.w', source: base.get('w')!.source, steps: [] })
  t.match(made.get('still none'), { name: 'still none', shape: [0, 4], count: 0 })
})

t.test('a tensor without bytes holds no index, whatever predicts it', async t => {
  const some = { name: 'some', dtype: 'F32', shape: [2, 4] } as const
  const none = { name: 'some', dtype: 'F16', shape: [0, 4] } as const
  for (const source of [some, null]) {
    const made = applyLink(baseOf(some).recipes, losslessLink('delta', [tensor(none, source)]))
    const recipe = made.get('some')!
    t.match(recipe, { dtype: 'F16', shape: [0, 4], count: 0, source: { kind: 'stored' } })
    t.strictSame([...planTensor(recipe, 'F32', { start: 0, end: storedBytes(recipe) })], [])
  }
})

t.test('other bytes than its parent’s are not taken for its parent’s', async t => {
  const others: readonly (readonly [string, Described, Described, Encoding])[] = [
    ['one row more', { ...W, shape: [4, 8] }, W, 'copy'],
    ['one row less', { ...W, shape: [2, 8] }, W, 'copy'],
    ['cast from another dtype', { ...W, dtype: 'F16' }, W, 'copy'],
    ['changed', W, W, 'sparse'],
    ['changed as a whole', W, W, 'raw'],
  ]
  for (const [name, own, source, encoding] of others) {
    const made = applyLink(
      baseOf(source).recipes,
      losslessLink('delta', [tensor(own, source, encoding)]),
    )
    t.match(made.get('w'), { source: { kind: 'lossless', blob: 'delta' } }, name)
  }
})

t.test('one frame of many that is not copy keeps the tensor its own', async t => {
  const large = { name: 'w', dtype: 'BF16', shape: [4096, 1024] } as const
  for (const encodings of [
    ['copy', 'copy', 'copy', 'sparse'],
    ['raw', 'copy'],
  ] as const) {
    const link = losslessLink('delta', [tensor(large, large, ...encodings)])
    t.match(applyLink(baseOf(large).recipes, link).get('w'), { source: { kind: 'lossless' } })
  }
})

t.test('of a parent in float32 it is the stored values, rounded once', async t => {
  const added = applyLink(baseOf(W).recipes, {
    blob: 'v1',
    index: addition(W, 'F16'),
    domain: 'stored',
  })
  const half = { ...W, dtype: 'F16' } as const
  let recipes = added
  for (let level = 0; level < 3; level++) {
    recipes = applyLink(recipes, losslessLink(`delta ${level}`, [tensor(half, half, 'copy')]))
    t.strictSame(opsOf(recipes.get('w')!), ['add', 'round'])
  }
  t.match(recipes.get('w')!.steps[1], { dtype: 'F16' })
  t.strictSame([...blobsOf(recipes.get('w')!)], ['base', 'v1'])
  const again = { blob: 'again', index: addition(half, 'F16'), domain: 'stored' } as const
  t.strictSame(opsOf(applyLink(recipes, again).get('w')!), ['add', 'round', 'add'])
  t.strictSame(opsOf(added.get('w')!), ['add'], 'the parent is as it was')
})
