import { type Dtype, elementCount, type FloatDtype, isFloat } from '../base/dtypes.ts'
import { CodecError, namedTensor } from '../base/errors.ts'
import type { Span } from '../base/ranges.ts'
import { complete, STEP_ITEMS, type Steps } from '../base/steps.ts'
import { ENCODINGS } from '../frames/frame-encodings.ts'
import type { Shard } from '../safetensors/layout.ts'
import { assembleTensorsSteps } from '../safetensors/model-folder.ts'
import type {
  DeltaIndex,
  FrameDelta,
  FrameTensor,
  RecordTensor,
  TensorSource,
} from '../wdelta/delta-index.ts'
import { frameCount } from '../wdelta/v2/format.ts'

/** The values of a parent that a record delta was made against: those that are stored, or the unrounded ones in float32. */
export type Domain = 'stored' | 'float32'

/** A shard of a base, and the blob that holds it. */
export interface BaseShard extends Shard {
  readonly blob: string
}

/** One delta of a lineage. `domain`: the values of its parent that it is added to; `stored` for a frame delta. */
export interface Link {
  readonly blob: string
  readonly index: DeltaIndex
  readonly domain: Domain
}

/** A step in float32: round to a dtype and back, or add a tensor of a record delta. */
export type RecipeStep =
  | { readonly op: 'round'; readonly dtype: FloatDtype }
  | { readonly op: 'add'; readonly blob: string; readonly tensor: RecordTensor }

/** The bytes of a tensor as they lie in a blob. */
export interface StoredBytes {
  readonly kind: 'stored'
  readonly dtype: Dtype
  readonly span: Span
}

/** The bytes of a tensor as frames of a delta restore them from what `parent` predicts; null if nothing does. */
export interface FrameBytes {
  readonly kind: 'lossless'
  readonly dtype: Dtype
  readonly blob: string
  /** The part of the delta's index that frames need: the rest, with the headers of its shards, is not held for models built on it. */
  readonly index: Pick<FrameDelta, 'frames' | 'records'>
  readonly tensor: FrameTensor
  readonly parent: Recipe | null
}

/** How one tensor of a model comes about: bytes, then steps in float32. Without steps, the bytes as they are. */
export interface Recipe {
  readonly name: string
  readonly shape: readonly number[]
  readonly count: number
  /** The dtype that the model stores it in. */
  readonly dtype: Dtype
  readonly source: StoredBytes | FrameBytes
  readonly steps: readonly RecipeStep[]
}

/** Shared by all tensors without steps: a model may have 300,000 of them. */
const NO_STEPS: readonly RecipeStep[] = []

/** The tensors of a model by name. */
export type Recipes = ReadonlyMap<string, Recipe>

/** A tensor whose bytes lie in a blob as they are. */
export interface StoredRecipe extends Recipe {
  readonly source: StoredBytes
}

/** The tensors of a model that is stored whole, by name. */
export type StoredRecipes = ReadonlyMap<string, StoredRecipe>

/** Every blob that a recipe reads; some come more than once. */
export function* blobsOf({ source, steps }: Recipe): Generator<string> {
  if (source.kind === 'stored') yield source.span.blob
  else {
    yield source.blob
    if (source.parent) yield* blobsOf(source.parent)
  }
  for (const step of steps) if (step.op === 'add') yield step.blob
}

/** The recipes of a model stored whole. @throws CodecError what `assembleTensors` throws */
export function baseRecipes(shards: readonly BaseShard[]): StoredRecipes {
  return complete(baseRecipesSteps(shards))
}

/** {@link baseRecipes} in steps. */
export function* baseRecipesSteps(shards: readonly BaseShard[]): Steps<StoredRecipes> {
  const recipes = new Map<string, StoredRecipe>()
  for (const [name, { shard, tensor }] of yield* assembleTensorsSteps(shards)) {
    if (recipes.size % STEP_ITEMS === 0) yield
    const span = { blob: shards[shard]!.blob, start: tensor.begin, end: tensor.end }
    const { shape, dtype } = tensor
    const count = elementCount(shape)
    const source = { kind: 'stored', dtype, span } as const
    recipes.set(name, { name, shape, count, dtype, source, steps: NO_STEPS })
  }
  return recipes
}

/**
 * The recipes of the model that a delta gives. Tensors that the delta does not name are not part of it.
 * @throws CodecError `tensor-unknown`, `shape-mismatch`, `tuned-dtype` if the delta does not fit its parent
 */
export function applyLink(parent: Recipes, link: Link): Recipes {
  return complete(applyLinkSteps(parent, link))
}

/** {@link applyLink} in steps. */
export function* applyLinkSteps(parent: Recipes, { blob, index, domain }: Link): Steps<Recipes> {
  if (index.frames) return yield* applyFrameDelta(parent, blob, index)
  const recipes = new Map<string, Recipe>()
  for (const tensor of index.tensors) {
    if (recipes.size % STEP_ITEMS === 0) yield
    const recipe = parent.get(tensor.name)
    if (!recipe) {
      throw new CodecError(
        'delta',
        'tensor-unknown',
        `the delta names ${namedTensor(tensor.name)}, which its parent does not have`,
      )
    }
    recipes.set(tensor.name, addTensor(recipe, tensor, blob, domain))
  }
  return recipes
}

function* applyFrameDelta(parent: Recipes, blob: string, index: FrameDelta): Steps<Recipes> {
  const recipes = new Map<string, Recipe>()
  const { frames, records } = index
  const columns = { frames, records }
  for (const tensor of index.tensors) {
    if (recipes.size % STEP_ITEMS === 0) yield
    const from = tensor.source && sourceRecipe(parent, tensor.source)
    recipes.set(tensor.name, frameRecipe({ blob, index: columns, tensor, parent: from }))
  }
  return recipes
}

/**
 * The recipe of a tensor of a frame delta. A tensor with all its parent's bytes has its parent's recipe: what is frozen costs nothing, however
 * long the lineage, because neither indexes nor recipes of the models between are held for it.
 */
function frameRecipe(frames: Omit<FrameBytes, 'kind' | 'dtype'>): Recipe {
  const { blob, tensor, parent } = frames
  const { name, shape, count, dtype, bytes } = tensor
  if (parent && isParents(frames)) {
    if (parent.name === name && parent.steps.length === 0 && sameShape(parent.shape, shape)) {
      return parent
    }
    return { ...parent, name, shape, steps: storedSteps(parent) }
  }
  const source =
    bytes === 0
      ? ({ kind: 'stored', dtype, span: { blob, start: 0, end: 0 } } as const)
      : ({ kind: 'lossless', dtype, ...frames } as const)
  return { name, shape, count, dtype, source, steps: NO_STEPS }
}

/** True if a tensor has all bytes of its parent, and no others. */
function isParents({ index, tensor, parent }: Omit<FrameBytes, 'kind' | 'dtype'>): boolean {
  const { dtype, count, bytes, firstFrame } = tensor
  if (parent?.dtype !== dtype || parent.count !== count) return false
  const encodings = index.frames.encodings.subarray(firstFrame, firstFrame + frameCount(bytes))
  return encodings.every(encoding => ENCODINGS[encoding] === 'copy')
}

/** The steps that give the stored values of a recipe, not its unrounded ones. */
function storedSteps({ dtype, steps }: Recipe): readonly RecipeStep[] {
  const last = steps.at(-1)
  if (!last || !isFloat(dtype) || (last.op === 'round' && last.dtype === dtype)) return steps
  return [...steps, { op: 'round', dtype }]
}

function sourceRecipe(parent: Recipes, { name, dtype, shape }: TensorSource): Recipe {
  const recipe = parent.get(name)
  const at = namedTensor(name)
  if (!recipe) {
    const message = `the delta looks at ${at}, which its parent does not have`
    throw new CodecError('delta', 'tensor-unknown', message)
  }
  if (recipe.dtype === dtype && sameShape(recipe.shape, shape)) return recipe
  const came = `${recipe.dtype} [${recipe.shape}]`
  const message = `${at}: expected ${dtype} [${shape}] in the parent, got ${came}`
  throw new CodecError('delta', 'shape-mismatch', message)
}

function addTensor(parent: Recipe, tensor: RecordTensor, blob: string, domain: Domain): Recipe {
  const at = namedTensor(tensor.name)
  if (!sameShape(parent.shape, tensor.shape)) {
    throw new CodecError(
      'delta',
      'shape-mismatch',
      `${at}: expected the parent's shape [${parent.shape}], got [${tensor.shape}]`,
    )
  }
  if (!isFloat(parent.dtype) && tensor.zero) {
    if (tensor.tunedDtype === null || tensor.tunedDtype === parent.dtype) return parent
    throw new CodecError(
      'delta',
      'tuned-dtype',
      `${at}: an unchanged ${parent.dtype} tensor is copied, but the delta names it ${tensor.tunedDtype}`,
    )
  }
  const dtype = tensor.tunedDtype ?? (isFloat(parent.dtype) ? parent.dtype : 'F32')
  if (!isFloat(dtype)) {
    throw new CodecError(
      'delta',
      'tuned-dtype',
      `${at}: the delta's sum cannot be cast to ${dtype}`,
    )
  }
  const before = domain === 'stored' ? storedSteps(parent) : parent.steps
  return { ...parent, dtype, steps: [...before, { op: 'add', blob, tensor }] }
}

/** True if both lists have the same dimensions. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((dimension, i) => dimension === b[i])
}
