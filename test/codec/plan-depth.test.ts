import t from 'tap'
import {
  applyLink,
  baseRecipes,
  buildLayout,
  type Encoding,
  FRAME_BYTES,
  LIMITS,
  planTensor,
  type Recipe,
  type Recipes,
  type Segment,
  storedBytes,
} from '../../src/codec/index.ts'
import { counted, losslessLink } from './lossless-indexes.ts'

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

/** Segments, with all that they are predicted from. */
function nested(segments: readonly Segment[]): number {
  return segments.reduce((sum, segment) => {
    if (segment.kind === 'lossless') return sum + 1 + nested(segment.prediction?.source ?? [])
    return sum + 1 + (segment.kind === 'frame' ? nested(segment.source) : 0)
  }, 0)
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
      t.ok(nested(segments) <= (FRAMES + 1) * (depth + 1), `${nested(segments)} at depth ${depth}`)
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
