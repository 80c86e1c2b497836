import t from 'tap'
import type { FloatDtype } from '../../../src/codec/base/dtypes.ts'
import { FRAME_BYTES, LIMITS } from '../../../src/codec/base/limits.ts'
import type { Encoding } from '../../../src/codec/frames/frame-encodings.ts'
import { planTensor, storedBytes } from '../../../src/codec/plan/plan.ts'
import { applyLink, type Recipe, type Recipes } from '../../../src/codec/plan/recipes.ts'
import { segmentsOf } from '../../../src/workers/batches.ts'
import { addition, baseOf, counted, losslessLink } from '../../support/models/made-up-lineages.ts'

const COLUMNS = 1024
const ROWS = 4096
const FRAMES = (ROWS * COLUMNS * 2) / FRAME_BYTES

/** What one tensor is in a model of a lineage. */
interface Level {
  readonly dtype: FloatDtype
  readonly shape: readonly number[]
  /** What its frames are, the last one for all that follow; null for a delta of version 1 that adds nothing. */
  readonly encodings: readonly Encoding[] | null
}

/** A lineage of `depth` fine-tunes of the base, which is level 0; `lookups` counts what plans look up in the frames of its deltas. */
function lineage(depth: number, at: (level: number) => Level) {
  let recipes: Recipes = baseOf({ name: 'w', ...at(0) }).recipes
  const all: (() => number)[] = []
  for (let level = 1; level <= depth; level++) {
    const source = { name: 'w', ...at(level - 1) }
    const { encodings, ...tensor } = { ...source, ...at(level) }
    const blob = `delta ${level}`
    if (encodings === null) {
      recipes = applyLink(recipes, {
        blob,
        index: addition(tensor, tensor.dtype),
        domain: 'stored',
      })
      continue
    }
    const { link, lookups } = counted(losslessLink(blob, [{ ...tensor, source, encodings }]))
    recipes = applyLink(recipes, link)
    const before = lookups()
    all.push(() => lookups() - before)
  }
  return { recipe: recipes.get('w')!, lookups: () => all.reduce((sum, each) => sum + each(), 0) }
}

/** Levels whose frames are these; each has `shorter` rows less than the one before it. */
const coded = (encodings: (level: number) => readonly Encoding[], shorter = 0) => {
  return (level: number): Level => ({
    dtype: 'BF16',
    shape: [ROWS - level * shorter, COLUMNS],
    encodings: encodings(level),
  })
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
      const { recipe, lookups } = lineage(depth, coded(encodings, shorter))
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
    const { recipe } = lineage(
      depth,
      coded(() => ['copy', 'coded']),
    )
    const segments = [...planTensor(recipe, 'BF16', { start: 1000, end: 1001 })]
    t.match(segments, [{ kind: 'copy', span: { blob: 'base' } }])
    t.equal(segments.length, 1)
  }
})

/** Levels whose dtypes are these in turn; that of `step` is a delta of version 1. */
const zigzag = (dtypes: readonly FloatDtype[], step?: number) => {
  return (level: number): Level => ({
    dtype: dtypes[level % dtypes.length]!,
    shape: [2048, 1024],
    encodings: level === step ? null : ['sparse'],
  })
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
      const { recipe, lookups } = lineage(depth, zigzag(dtypes, step))
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
