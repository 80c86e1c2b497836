import t from 'tap'
import { CELL, FRAME_BYTES } from '../../../src/codec/base/limits.ts'
import { planHash, planRange, planTensor } from '../../../src/codec/plan/plan.ts'
import { applyLink, type Recipe } from '../../../src/codec/plan/recipes.ts'
import type { FloatFrameSegment, Segment } from '../../../src/codec/plan/segments.ts'
import type {
  RecordDelta,
  RecordTensor,
  SparseTensor,
} from '../../../src/codec/wdelta/delta-index.ts'
import { baseOf } from '../../support/models/made-up-lineages.ts'

const delta = (tensors: RecordTensor[]): RecordDelta => ({
  format: 1,
  parentHash: '0'.repeat(64),
  strategy: 'int4',
  size: 0,
  tensors,
})

const common = (name: string, shape: number[]) => ({
  name,
  shape,
  count: shape.reduce((a, b) => a * b, 1),
  tunedDtype: null,
  zero: false,
  nonFinite: 0,
})

/** An int4 tensor whose arrays stand at round offsets; one outlier in each cell but the first. */
const int4 = (name: string, shape: number[]): RecordTensor => {
  const { count } = common(name, shape)
  const cells = Math.ceil(count / CELL)
  const ranks = Array.from({ length: cells + 1 }, (_, i) => Math.max(0, i - 1))
  const outliers = ranks.at(-1)!
  return {
    ...common(name, shape),
    strategy: 'int4',
    outlierFraction: 0.01,
    outliers,
    scale: 1,
    zeroPoint: 0,
    outlierIdx: { start: 1000, end: 1000 + outliers * 8 },
    outlierVals: { start: 2000, end: 2000 + outliers * 2 },
    packed: { start: 10_000, end: 10_000 + Math.ceil((count - outliers) / 2) },
    ranks,
  }
}

const size = (segment: Segment) => {
  if (segment.kind === 'bytes') return segment.bytes.length
  const { start, end } = segment.kind === 'copy' ? segment.span : segment.slice
  return end - start
}

t.test('a whole model is its header and one copy per tensor', async t => {
  const { layout, recipes } = baseOf(
    { name: 'a', dtype: 'BF16', shape: [3, 5] },
    { name: 'b', dtype: 'I64', shape: [2] },
  )
  const segments = [...planRange(recipes, layout, { start: 0, end: layout.size })]
  t.strictSame(
    segments.map(segment => segment.kind),
    ['bytes', 'copy', 'copy'],
  )
  t.strictSame(segments[1], {
    kind: 'copy',
    span: { blob: 'base', start: layout.header.length, end: layout.header.length + 16 },
  })
})

t.test(
  'every range of a file gives exactly its bytes, from inside the header to the end',
  async t => {
    const { layout, recipes } = baseOf(
      { name: 'a', dtype: 'BF16', shape: [3] },
      { name: 'empty', dtype: 'F32', shape: [0, 4] },
      { name: 'b', dtype: 'U8', shape: [5] },
    )
    for (let start = 0; start <= layout.size; start++) {
      for (let end = start; end <= layout.size; end += 7) {
        const sum = [...planRange(recipes, layout, { start, end })].reduce((n, s) => n + size(s), 0)
        if (sum !== end - start) t.equal(sum, end - start, `bytes ${start}..${end}`)
      }
    }
    t.throws(() => [...planRange(recipes, layout, { start: 0, end: layout.size + 1 })], {
      name: 'CodecError',
      rule: 'range',
    })
  },
)

t.test('a frame reads the cells that its run touches and nothing else', async t => {
  const count = 40 * CELL + 11
  const { recipes } = baseOf({ name: 'w', dtype: 'BF16', shape: [count] })
  const tuned = applyLink(recipes, {
    blob: 'delta',
    index: delta([int4('w', [count])]),
    domain: 'stored',
  })
  const recipe = tuned.get('w')!
  const item = 2
  const begin = recipes.get('w')!.source.span.start
  const run = { start: (3 * CELL + 5) * item + 1, end: (4 * CELL + 1) * item }
  const [segment, ...others] = [...planTensor(recipe, 'BF16', run)]
  t.strictSame(others, [])
  t.strictSame(segment, {
    kind: 'frame',
    frame: {
      first: 3 * CELL,
      count: 2 * CELL,
      load: 'BF16',
      steps: [{ op: 'int4', scale: 1, zeroPoint: 0, nibble: 0, indices: 1, values: 2, packed: 3 }],
      store: 'BF16',
    },
    source: [
      {
        kind: 'copy',
        span: { blob: 'base', start: begin + 3 * CELL * item, end: begin + 5 * CELL * item },
      },
    ],
    spans: [
      { blob: 'delta', start: 1000 + 2 * 8, end: 1000 + 4 * 8 },
      { blob: 'delta', start: 2000 + 2 * 2, end: 2000 + 4 * 2 },
      { blob: 'delta', start: 10_000 + (3 * CELL - 2) / 2, end: 10_000 + (5 * CELL - 4) / 2 },
    ],
    slice: { start: 5 * item + 1, end: (CELL + 1) * item },
  })
})

t.test('an odd number of outliers before a frame makes its first value a low nibble', async t => {
  const count = 3 * CELL
  const { recipes } = baseOf({ name: 'w', dtype: 'F32', shape: [count] })
  const recipe = applyLink(recipes, {
    blob: 'delta',
    index: delta([int4('w', [count])]),
    domain: 'stored',
  }).get('w')!
  const [segment] = [...planTensor(recipe, 'F32', { start: 2 * CELL * 4, end: 2 * CELL * 4 + 4 })]
  t.match(segment, { frame: { first: 2 * CELL, steps: [{ nibble: 1 }] } })
})

t.test('frames stand on a grid of two MiB of output, whatever the dtype', async t => {
  const count = 5 * CELL * 16 + 3
  for (const [store, item] of [
    ['BF16', 2],
    ['F32', 4],
    ['F64', 8],
  ] as const) {
    const { recipes } = baseOf({ name: 'w', dtype: 'F16', shape: [count] })
    const segments = [
      ...planTensor(recipes.get('w')!, store, { start: 0, end: count * item }),
    ] as Extract<Segment, { kind: 'frame' }>[]
    let next = 0
    for (const { frame, slice } of segments) {
      t.equal(frame.first, next)
      t.ok(frame.count * item <= FRAME_BYTES)
      t.strictSame(slice, { start: 0, end: frame.count * item })
      next += frame.count
    }
    t.equal(next, count)
  }
})

t.test('a range costs the frames that it touches: cut anywhere, the pieces add up', async t => {
  const count = 9 * CELL + 77
  const { recipes } = baseOf({ name: 'w', dtype: 'BF16', shape: [count] })
  const recipe = recipes.get('w')!
  const end = count * 4
  for (let i = 0; i < 200; i++) {
    const a = (i * 7919 * 131) % end
    const b = a + ((i * 104_729) % (end - a))
    const segments = [...planTensor(recipe, 'F32', { start: a, end: b })]
    t.equal(
      segments.reduce((sum, segment) => sum + size(segment), 0),
      b - a,
    )
    for (const segment of segments) {
      if (segment.kind !== 'frame') continue
      t.ok(segment.slice.start < segment.slice.end)
      t.ok(segment.slice.end <= segment.frame.count * 4)
      t.ok(segment.frame.count <= Math.ceil((b - a) / 4 / CELL + 2) * CELL)
    }
  }
})

t.test(
  'a chain adds in float32 and rounds where a delta was made against stored values',
  async t => {
    const { recipes } = baseOf({ name: 'w', dtype: 'BF16', shape: [8] })
    const link = (domain: 'stored' | 'float32') => ({
      blob: 'd',
      index: delta([{ ...sparse('w', [8]), tunedDtype: 'F16' }]),
      domain,
    })
    const ops = (recipe: Recipe | undefined) => recipe!.steps.map(step => step.op)
    const one = applyLink(recipes, link('stored'))
    t.strictSame(ops(one.get('w')), ['add'], 'nothing to round before the first delta')
    t.strictSame(ops(applyLink(one, link('float32')).get('w')), ['add', 'add'])
    const rounded = applyLink(one, link('stored')).get('w')!
    t.strictSame(ops(rounded), ['add', 'round', 'add'])
    t.match(rounded.steps[1], { dtype: 'F16' })
    t.equal(rounded.dtype, 'F16')
  },
)

const sparse = (name: string, shape: number[], zero = false): RecordTensor => ({
  ...common(name, shape),
  strategy: 'sparse',
  zero,
  sparsity: 0,
  kept: 0,
  indices: { start: 0, end: 0 },
  values: { start: 0, end: 0 },
  ranks: [0, 0],
})

t.test(
  'a tensor whose ranks are those of a few cells is planned like one with all ranks',
  async t => {
    const shape = [100 * CELL + 9]
    const { layout, recipes } = baseOf({ name: 'w', dtype: 'BF16', shape })
    const cells = [3, 4, 77, 100]
    const few = { cells, ranks: [0, 5, 6, 8, 9] }
    const ranks = Array.from(
      { length: 102 },
      (_, i) => few.ranks[cells.filter(cell => cell < i).length]!,
    )
    const kept = { ...sparse('w', shape), kept: 9 } as SparseTensor
    const segmentsOf = (tensor: RecordTensor) => {
      const link = { blob: 'delta', index: delta([tensor]), domain: 'stored' } as const
      const recipe = applyLink(recipes, link).get('w')!
      const end = layout.size - layout.header.length
      return [...planTensor(recipe, 'BF16', { start: 0, end })].map(segment => {
        const { frame, spans } = segment as FloatFrameSegment
        return { first: frame.first, spans }
      })
    }
    const planned = segmentsOf({ ...kept, ...few })
    t.strictSame(planned, segmentsOf({ ...kept, ranks }))
    t.equal(planned.length, 7)
  },
)

t.test(
  'an integer tensor is copied where the delta leaves it, and comes back as F32 where it does not',
  async t => {
    const { recipes } = baseOf({ name: 'ids', dtype: 'I64', shape: [4] })
    const apply = (tensor: RecordTensor) =>
      applyLink(recipes, { blob: 'd', index: delta([tensor]), domain: 'stored' }).get('ids')!
    t.strictSame(apply(sparse('ids', [4], true)), recipes.get('ids'))
    t.match(apply(sparse('ids', [4])), { dtype: 'F32', steps: [{ op: 'add' }] })
    t.throws(() => apply({ ...sparse('ids', [4], true), tunedDtype: 'I32' }), {
      name: 'CodecError',
      rule: 'tuned-dtype',
    })
    t.throws(() => apply({ ...sparse('ids', [4]), tunedDtype: 'I64' }), {
      name: 'CodecError',
      rule: 'tuned-dtype',
    })
  },
)

t.test('a delta that does not fit its parent is refused', async t => {
  const { recipes } = baseOf({ name: 'w', dtype: 'F32', shape: [2, 3] })
  const apply = (tensor: RecordTensor) => () =>
    applyLink(recipes, { blob: 'd', index: delta([tensor]), domain: 'stored' })
  t.throws(apply(sparse('v', [2, 3])), { name: 'CodecError', rule: 'tensor-unknown' })
  t.throws(apply(sparse('w', [3, 2])), { name: 'CodecError', rule: 'shape-mismatch' })
})

t.test('a lineage hash is taken of each name and then its values', async t => {
  const { recipes } = baseOf(
    { name: 'b', dtype: 'BF16', shape: [4] },
    { name: 'a', dtype: 'I32', shape: [2] },
  )
  const stored = [...planHash(recipes, ['a', 'b'], 'stored')]
  t.strictSame(
    stored.map(segment => [segment.kind, size(segment)]),
    [
      ['bytes', 1],
      ['copy', 8],
      ['bytes', 1],
      ['copy', 8],
    ],
  )
  const float32 = [...planHash(recipes, ['b', 'a'], 'float32')]
  t.strictSame(
    float32.map(segment => [segment.kind, size(segment)]),
    [
      ['bytes', 1],
      ['frame', 16],
      ['bytes', 1],
      ['frame', 8],
    ],
  )
})
