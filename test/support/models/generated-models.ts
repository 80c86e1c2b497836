import {
  DTYPE_BITS,
  type Dtype,
  elementCount,
  type FloatDtype,
  isFloat,
} from '../../../src/codec/base/dtypes.ts'
import { FRAME_BYTES } from '../../../src/codec/base/limits.ts'
import { Random } from '../random.ts'
import { type Cut, cutModel, FILE_FEATURES, writeFolder } from './generated-folders.ts'
import {
  CHANGES,
  type Change,
  cast,
  changed,
  FILLS,
  type Fill,
  filled,
  isNumber,
  SPECIALS,
  sprinkle,
} from './generated-values.ts'

/** A model folder: the bytes of every file by its path. */
export type Folder = ReadonlyMap<string, Uint8Array>

export interface GeneratedLineage {
  readonly base: Folder
  /** Each made from the one before it, the first from the base. */
  readonly fineTunes: readonly Folder[]
  /** What occurs in it, of {@link FEATURES}. */
  readonly features: ReadonlySet<string>
}

export interface GeneratedTensor {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly data: Uint8Array
}

/** The tensors of a model by name. */
export type Tensors = Map<string, GeneratedTensor>

const DTYPES = Object.keys(DTYPE_BITS) as Dtype[]
const FLOATS: readonly FloatDtype[] = ['BF16', 'F32', 'F16', 'F64']
const CASTS = FLOATS.flatMap(from => FLOATS.filter(to => to !== from).map(to => ({ from, to })))
/** Of every so many seeds, one is of several frames, and one is the same model again. */
const LARGE_EVERY = 20
const IDENTICAL_EVERY = 10

const SHAPES = ['matrix', 'vector', 'odd', 'scalar', 'one', 'empty', 'cube'] as const

/** What may happen to the structure of a model; each is false where nothing fits it. */
const EDITS: Readonly<Record<string, (model: Tensors, random: Random, step: Step) => boolean>> = {
  'a new tensor': (model, random) => {
    const dtype = random.pick(DTYPES)
    const data = aTensor(random, dtype, random.pick(SHAPES), random.pick(FILLS))
    return put(model, freeName(model, random), data)
  },
  'new tensors that are equal': (model, random) => {
    const tensor = aTensor(random, random.pick(DTYPES), 'matrix', 'weights')
    put(model, freeName(model, random), tensor)
    return put(model, freeName(model, random), { ...tensor, data: tensor.data.slice() })
  },
  'a tensor is gone': (model, random) =>
    model.size > 1 && model.delete(random.pick([...model.keys()])),
  'a tensor is renamed': (model, random) => renamed(model, random, 'identical'),
  'a tensor is renamed and changed': (model, random) =>
    renamed(model, random, random.pick(['dense', 'sparse', 'one element'])),
  'another float dtype': (model, random, step) => {
    const { from, to } = step.first ? step.cast : random.pick(CASTS)
    const name = some(model, random, ({ dtype, data }) => dtype === from && data.length > 0)
    return name !== null && casts(model, random, name, to, step)
  },
  'integers to floats': (model, random, step) => {
    const name = some(model, random, ({ dtype }) => isNumber(dtype) && !isFloat(dtype))
    return name !== null && casts(model, random, name, random.pick(FLOATS), step)
  },
  'a grown first dimension': (model, random) => {
    const name = some(model, random, ({ shape }) => shape.length > 0)
    return name !== null && resized(model, random, name, rows => rows + 1 + random.below(rows + 5))
  },
  'a shrunk first dimension': (model, random) => {
    const name = some(model, random, ({ shape }) => (shape[0] ?? 0) > 1)
    return name !== null && resized(model, random, name, rows => random.below(rows))
  },
  'another inner dimension': (model, random) => {
    const name = some(model, random, ({ shape, data }) => shape.length > 1 && data.length > 0)
    if (name === null) return false
    const { dtype, shape } = model.get(name)!
    const inner = shape.at(-1)! + 8 * (1 + random.below(4))
    return put(model, name, shaped(random, dtype, shape.with(-1, inner), 'weights'))
  },
  'another rank': (model, random) => {
    const name = some(model, random, () => true)!
    const tensor = model.get(name)!
    const shape = random.chance(50) ? [1, ...tensor.shape] : [elementCount(tensor.shape)]
    return shape.length !== tensor.shape.length && put(model, name, { ...tensor, shape })
  },
  'tied tensors': model => {
    const [tied, other] = ['lm_head.weight', 'embed.weight'].map(name => model.get(name))
    if (!tied || !other) return false
    return put(model, 'lm_head.weight', { ...other, data: other.data.slice() })
  },
  'tied to a tensor that the base has once': (model, random) => {
    const tensor = model.get(some(model, random, ({ data }) => data.length > 0) ?? '')
    if (!tensor) return false
    return put(model, freeName(model, random), { ...tensor, data: tensor.data.slice() })
  },
  'swapped tensors': (model, random) => {
    const name = some(model, random, ({ data }) => data.length > 1)
    const tensor = model.get(name ?? '')
    if (name === null || !tensor) return false
    const twin = { ...tensor, data: changed(random, tensor.dtype, tensor.data, 'unrelated') }
    put(model, freeName(model, random), tensor)
    return put(model, name, twin)
  },
}

const EDIT_NAMES = Object.keys(EDITS)

/** What a tensor may be, whichever way it came about. */
const MEASURED: Readonly<Record<string, (tensor: GeneratedTensor) => boolean>> = {
  'a scalar': ({ shape }) => shape.length === 0,
  'a tensor of one element': ({ shape }) => shape.length > 0 && elementCount(shape) === 1,
  'an empty tensor': ({ data }) => data.length === 0,
  'an odd number of elements': ({ shape }) => elementCount(shape) % 2 === 1,
  'an odd number of bytes': ({ data }) => data.length % 2 === 1,
  'three dimensions': ({ shape }) => shape.length > 2,
  'several frames': ({ data }) => data.length > 2 * FRAME_BYTES,
}

/** Everything that seeds can have. A suite over enough seeds asserts that it saw all of it. */
export const FEATURES: readonly string[] = [
  ...DTYPES.map(dtype => `dtype ${dtype}`),
  ...Object.keys(MEASURED),
  ...SPECIALS,
  ...CHANGES.map(change => `change: ${change}`),
  ...CASTS.map(({ from, to }) => `${from} to ${to}`),
  ...EDIT_NAMES,
  ...FILE_FEATURES,
  'the same model again',
]

interface Step {
  readonly seed: number
  /** True for the fine-tune of the base. */
  readonly first: boolean
  readonly cast: { readonly from: FloatDtype; readonly to: FloatDtype }
  readonly note: (feature: string) => void
}

/**
 * A base and `depth` fine-tunes in a row, the same bytes for the same seed everywhere. Most models have 2 to 300 KB, those of one seed
 * in twenty up to 5 MB, in tensors of several frames. What is covered is spread over the seeds, so that any forty in a row have
 * all of {@link FEATURES}, also at depth 1.
 */
export function generateLineage(seed: number, depth: number): GeneratedLineage {
  const random = new Random(seed)
  const features = new Set<string>()
  const note = (feature: string) => void features.add(feature)
  const pair = CASTS[seed % CASTS.length]!
  let model = baseModel(seed, random, pair.from)
  for (const special of SPECIALS) note(special)
  let cut = cutModel(model.keys(), seed, random)
  const base = writeFolder(model, cut, random, note)
  const fineTunes: Folder[] = []
  let before = base
  noteTensors(model, note)
  for (let i = 0; i < depth; i++) {
    const step = { seed: seed + i, first: i === 0, cast: pair, note }
    if (step.seed % IDENTICAL_EVERY === IDENTICAL_EVERY - 1) {
      note('the same model again')
    } else {
      model = fineTune(model, random, step)
      cut = recut(model, cut, random, step)
      before = writeFolder(model, cut, random, note)
      noteTensors(model, note)
    }
    fineTunes.push(before)
  }
  return { base, fineTunes, features: new Set(FEATURES.filter(feature => features.has(feature))) }
}

function noteTensors(model: Tensors, note: (feature: string) => void): void {
  for (const tensor of model.values()) {
    note(`dtype ${tensor.dtype}`)
    for (const [feature, has] of Object.entries(MEASURED)) if (has(tensor)) note(feature)
  }
}

/** Three dtypes in three shapes that depend on the seed, a cast's source, an embedding that may be tied, and some more. */
function baseModel(seed: number, random: Random, source: FloatDtype): Tensors {
  const model: Tensors = new Map()
  for (let i = 0; i < 3; i++) {
    const dtype = DTYPES[(seed * 3 + i) % DTYPES.length]!
    const shape = SHAPES[(seed + i * 2) % SHAPES.length]!
    put(model, freeName(model, random), aTensor(random, dtype, shape, random.pick(FILLS)))
  }
  const specials = shaped(random, source, [9 + random.below(90), 8 + random.below(50)], 'weights')
  sprinkle(random, source, specials.data)
  put(model, freeName(model, random), specials)
  const embedding = aTensor(random, random.pick(['BF16', 'F16', 'F32']), 'matrix', 'weights')
  put(model, 'embed.weight', embedding)
  if (seed % 2 === 0) put(model, 'lm_head.weight', { ...embedding })
  for (let i = random.below(8); i > 0; i--) {
    const dtype = random.chance(70) ? random.pick(FLOATS) : random.pick(DTYPES)
    put(model, freeName(model, random), aTensor(random, dtype, random.pick(SHAPES), 'weights'))
  }
  if (seed % LARGE_EVERY === 7) {
    const dtype = random.pick(['BF16', 'F16', 'F32'] as const)
    const columns = 200 + random.below(800)
    const rows = Math.floor((4_200_000 + random.below(700_000)) / columns / (DTYPE_BITS[dtype] / 8))
    put(model, 'large.weight', shaped(random, dtype, [rows, columns], 'weights'))
  }
  return model
}

/** The next model: values first, then the structure, by what is due for this seed and by chance. */
function fineTune(parent: Tensors, random: Random, step: Step): Tensors {
  const model: Tensors = new Map()
  let turn = step.seed
  for (const [name, tensor] of parent) {
    const change: Change = random.chance(60) ? CHANGES[turn++ % CHANGES.length]! : 'identical'
    if (tensor.data.length > 0) step.note(`change: ${change}`)
    model.set(name, { ...tensor, data: changed(random, tensor.dtype, tensor.data, change) })
  }
  const due = [0, 1, 2].map(i => EDIT_NAMES[(step.seed * 3 + i) % EDIT_NAMES.length]!)
  for (const name of step.first ? ['another float dtype', ...due] : due) {
    if (EDITS[name]!(model, random, step)) step.note(name)
  }
  return model
}

/** The parent's shards again with what is new in one of them, or other shards. */
function recut(model: Tensors, cut: Cut, random: Random, { seed, note }: Step): Cut {
  if (seed % 3 === 1) {
    note('shards are cut differently')
    return cutModel(random.shuffled([...model.keys()]), seed + random.below(7), random)
  }
  const known = new Set(cut.shards.flatMap(({ names }) => names))
  const fresh = [...model.keys()].filter(name => !known.has(name))
  const taker = random.below(cut.shards.length)
  const shards = cut.shards.map((shard, i) => {
    const kept = shard.names.filter(name => model.has(name))
    return { ...shard, names: i === taker ? [...kept, ...fresh] : kept }
  })
  return { ...cut, shards }
}

function put(model: Tensors, name: string, tensor: GeneratedTensor): true {
  model.set(name, tensor)
  return true
}

/** A tensor of the kind, rather one of several frames than another, or null where the model has none. */
function some(
  model: Tensors,
  random: Random,
  fits: (tensor: GeneratedTensor) => boolean,
): string | null {
  const names = [...model].filter(([, tensor]) => fits(tensor)).map(([name]) => name)
  const large = names.find(name => model.get(name)!.data.length > FRAME_BYTES)
  if (large !== undefined && random.chance(60)) return large
  return names.length > 0 ? random.pick(names) : null
}

/** Names of real models, and what a name may be but seldom is. */
const STEMS = [
  'model.layers.#.self_attn.q_proj.weight',
  'model.layers.#.mlp.down_proj.weight',
  'layers.#.norm.bias',
  'h/#/attn/w',
  '重み.#.é',
  '😀 #',
  'quote"back\\slash#',
  'constructor#',
]

function freeName(model: Tensors, random: Random): string {
  if (!model.has('__proto__') && random.chance(3)) return '__proto__'
  for (;;) {
    const name = random.pick(STEMS).replace('#', String(random.below(100)))
    if (!model.has(name)) return name
  }
}

function renamed(model: Tensors, random: Random, change: Change): boolean {
  const name = some(model, random, ({ data }) => data.length > 0)
  if (name === null) return false
  const tensor = model.get(name)!
  model.delete(name)
  const prefixed = name.startsWith('model.') ? name.slice('model.'.length) : `model.${name}`
  const to = random.chance(50) || model.has(prefixed) ? freeName(model, random) : prefixed
  return put(model, to, { ...tensor, data: changed(random, tensor.dtype, tensor.data, change) })
}

function casts(
  model: Tensors,
  random: Random,
  name: string,
  to: FloatDtype,
  { note }: Step,
): boolean {
  const { dtype, shape, data } = model.get(name)!
  if (!isNumber(dtype) || elementCount(shape) * DTYPE_BITS[to] > 9_000_000 * 8) return false
  if (isFloat(dtype)) note(`${dtype} to ${to}`)
  const exact = cast(random, dtype, data, to)
  const change = random.pick(['identical', 'dense', 'sparse'] as const)
  return put(model, name, { dtype: to, shape, data: changed(random, to, exact, change) })
}

/** Other rows: what both have stays, the rest is new. */
function resized(
  model: Tensors,
  random: Random,
  name: string,
  rows: (before: number) => number,
): boolean {
  const { dtype, shape, data } = model.get(name)!
  const first = rows(shape[0]!)
  const tensor = shaped(random, dtype, shape.with(0, first), 'weights')
  // A dtype below a byte allows not every size, and large tensors shall not grow on and on.
  if (tensor.shape[0] !== first || tensor.data.length > 6_000_000) return false
  tensor.data.set(data.subarray(0, tensor.data.length))
  return put(model, name, tensor)
}

function aTensor(
  random: Random,
  dtype: Dtype,
  shape: (typeof SHAPES)[number],
  fill: Fill,
): GeneratedTensor {
  const size = () => 1 + random.below(random.chance(30) ? 240 : 30)
  switch (shape) {
    case 'matrix':
      return shaped(random, dtype, [size(), size()], fill)
    case 'vector':
      return shaped(random, dtype, [size() * 8], fill)
    case 'odd':
      return shaped(random, dtype, [size() * 2 + 1], fill)
    case 'scalar':
      return shaped(random, dtype, [], fill)
    case 'one':
      return shaped(random, dtype, [1, 1], fill)
    case 'empty':
      return shaped(random, dtype, random.pick([[0], [0, 7], [3, 0], [2, 0, 2]]), fill)
    case 'cube':
      return shaped(random, dtype, [1 + random.below(6), size(), 1 + random.below(9)], fill)
  }
}

/** A tensor of this shape; of a dtype below a byte, of the next shape that takes whole bytes. */
function shaped(
  random: Random,
  dtype: Dtype,
  shape: readonly number[],
  fill: Fill,
): GeneratedTensor {
  const bits = elementCount(shape) * DTYPE_BITS[dtype]
  if (bits % 8 !== 0) {
    const whole = shape.length === 0 ? [4] : shape.with(0, shape[0]! + 1)
    return shaped(random, dtype, whole, fill)
  }
  return { dtype, shape, data: filled(random, dtype, bits / 8, fill) }
}
