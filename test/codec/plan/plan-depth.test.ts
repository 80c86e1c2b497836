import t from 'tap'
import type { FloatDtype } from '../../../src/codec/base/dtypes.ts'
import { FRAME_BYTES, LIMITS } from '../../../src/codec/base/limits.ts'
import type { Encoding } from '../../../src/codec/frames/frame-encodings.ts'
import { planTensor, storedBytes } from '../../../src/codec/plan/plan.ts'
import {
  applyLink,
  baseRecipes,
  type Recipe,
  type Recipes,
} from '../../../src/codec/plan/recipes.ts'
import { buildLayout } from '../../../src/codec/safetensors/write-header.ts'
import { segmentsOf } from '../../../src/workers/batches.ts'
import { addition, counted, losslessLink } from '../../support/lossless-indexes.ts'

const COLUMNS = 1024
const ROWS = 4096
const FRAMES = (ROWS * COLUMNS * 2) / FRAME_BYTES

/** A lineage of `depth` fine-tunes; `encodings` says what the frames of one are, `shorter` by how many rows each is shorter than its parent. */
function lineage(depth: number, encodings: (level: number) => readonly Encoding[], shorter = 0) {
  const shapeAt = (level: number) => [ROWS - level * shorter, COLUMNS]
  const layout = buildLayout([{ name: 'w', dtype: 'BF16', shape: shapeAt(0) }], null)
  let recipes: Recipes = baseRecipes([{ path: 'model.safetensors', layout, blob: 'base' }])
  const all: (() => number)[] = []
  for (let level = 1; level <= depth; level++) {
    const source = { name: 'w', dtype: 'BF16', shape: shapeAt(level - 1) } as const
    const tensor = { name: 'w', dtype: 'BF16', shape: shapeAt(level), source } as const
    const { link, lookups } = counted(
      losslessLink(`delta ${level}`, [{ ...tensor, encodings: encodings(level) }]),
    )
    recipes = applyLink(recipes, link)
    const before = lookups()
    all.push(() => lookups() - before)
  }
  return { recipe: recipes.get('w')!, lookups: () => all.reduce((sum, each) => sum + each(), 0) }
}

const planned = (recipe: Recipe) => [
  ...planTensor(recipe, recipe.dtype, { start: 0, end: storedBytes(recipe) }),
]

const DEPTHS = [1, 2, 3, 8, 16, 32, LIMITS.chainDepth] as const
/** What the frames of a fine-tune are, and how many lookups of frames and how many segments each frame of it may take. */
const SHAPES: readonly {
  readonly name: string
  readonly encodings: (level: number) => readonly Encoding[]
  readonly shorter?: number
}[] = [
  { name: 'every frame is copy', encodings: () => ['copy'] },
  { name: 'every frame is copy, of a longer parent', encodings: () => ['copy'], shorter: 1 },
  { name: 'every frame is copy, of a shorter parent', encodings: () => ['copy'], shorter: -1 },
  { name: 'no frame is copy', encodings: () => ['coded'] },
  { name: 'some frames are copy', encodings: () => ['copy', 'sparse', 'copy', 'coded'] },
  { name: 'every second model is copy', encodings: level => [level % 2 ? 'copy' : 'xor'] },
  { name: 'copy upon one change', encodings: level => [level === 1 ? 'raw' : 'copy'], shorter: 1 },
]

for (const { name, encodings, shorter } of SHAPES) {
  t.test(`${name}: a plan is linear in depth`, async t => {
    for (const depth of DEPTHS) {
      const { recipe, lookups } = lineage(depth, encodings, shorter)
      const segments = planned(recipe)
      const isLinear = lookups() <= (FRAMES + 1) * depth * 2
      // What follows would not end.
      if (!t.ok(isLinear, `${lookups()} lookups at depth ${depth}`)) return
      t.ok(
        segmentsOf(segments) <= (FRAMES + 1) * (depth + 1),
        `${segmentsOf(segments)} at depth ${depth}`,
      )
    }
  })
}

t.test('one byte of a copied frame is one copy of a byte, at any depth', async t => {
  for (const depth of DEPTHS) {
    const { recipe } = lineage(depth, () => ['copy', 'coded'])
    const segments = [...planTensor(recipe, 'BF16', { start: 1000, end: 1001 })]
    t.match(segments, [{ kind: 'copy', span: { blob: 'base' } }])
    t.equal(segments.length, 1)
  }
})

/** A lineage whose dtype is another in each model: those of `dtypes`, in turn. */
function zigzag(depth: number, dtypes: readonly FloatDtype[], step?: number) {
  const shape = [2048, 1024]
  const dtypeAt = (level: number) => dtypes[level % dtypes.length]!
  const layout = buildLayout([{ name: 'w', dtype: dtypeAt(0), shape }], null)
  let recipes: Recipes = baseRecipes([{ path: 'model.safetensors', layout, blob: 'base' }])
  const all: (() => number)[] = []
  for (let level = 1; level <= depth; level++) {
    const source = { name: 'w', dtype: dtypeAt(level - 1), shape } as const
    const tensor = { name: 'w', dtype: dtypeAt(level), shape, source } as const
    if (level === step) {
      const index = addition(source, dtypeAt(level))
      recipes = applyLink(recipes, { blob: `delta ${level}`, index, domain: 'stored' })
      continue
    }
    const { link, lookups } = counted(
      losslessLink(`delta ${level}`, [{ ...tensor, encodings: ['sparse'] }]),
    )
    recipes = applyLink(recipes, link)
    const before = lookups()
    all.push(() => lookups() - before)
  }
  return { recipe: recipes.get('w')!, lookups: () => all.reduce((sum, each) => sum + each(), 0) }
}

/** Elements that frames of all dtypes begin and end with: what one frame asks for never leaves them, four frames of F64 at most. */
const MAX_FRAMES = 4

for (const dtypes of [
  ['F16', 'F64'],
  ['BF16', 'F32'],
  ['F32', 'F64'],
  ['F16', 'BF16'],
  ['F64', 'F32', 'BF16', 'F64', 'F16'],
] as const) {
  t.test(`${dtypes.join(' and ')} in turn: a frame is linear in depth`, async t => {
    for (const [depth, step] of DEPTHS.flatMap(depth => [[depth], [depth, depth - 1]] as const)) {
      const { recipe, lookups } = zigzag(depth, dtypes, step)
      for (const dtype of [recipe.dtype, 'F32', 'BF16'] as const) {
        const before = lookups()
        const [segment] = planTensor(recipe, dtype, { start: 0, end: FRAME_BYTES })
        const steps = lookups() - before
        const most = MAX_FRAMES * 2 * (depth + 1)
        // What follows would not end.
        if (!t.ok(steps <= most * 2, `${steps} lookups at depth ${depth} as ${dtype}`)) return
        const segments = segmentsOf([segment!])
        t.ok(segments <= most, `${segments} segments at depth ${depth} as ${dtype}`)
      }
    }
  })
}
