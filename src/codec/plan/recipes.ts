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

/** The values of a parent that a version 1 delta was made against: as downloaded, or the unrounded float32 chain. */
export type Domain = 'stored' | 'float32'

/** A shard of the base and the blob that holds it. */
export interface BaseShard extends Shard {
  readonly blob: string
}

/** One delta of a lineage; `domain` says which values of its parent it is added to: `stored` for a lossless one. */
export interface Link {
  readonly blob: string
  readonly index: DeltaIndex
  readonly domain: Domain
}

export type RecipeStep =
  | { readonly op: 'round'; readonly dtype: FloatDtype }
  | { readonly op: 'add'; readonly blob: string; readonly tensor: RecordTensor }

/** Bytes as they lie in a blob. */
export interface StoredBytes {
  readonly kind: 'stored'
  readonly dtype: Dtype
  readonly span: Span
}

/** Bytes that the frames of a lossless delta give over what `parent` predicts; null where nothing does. */
export interface FrameBytes {
  readonly kind: 'lossless'
  readonly dtype: Dtype
  readonly blob: string
  /** Of its index what frames need: the rest, with the headers of its shards, is not held for what is built on it. */
  readonly index: Pick<FrameDelta, 'frames' | 'records'>
  readonly tensor: FrameTensor
  readonly parent: Recipe | null
}

/** How one tensor of a model comes about: bytes, then steps in float32. No steps: the bytes as they are. */
export interface Recipe {
  readonly name: string
  readonly shape: readonly number[]
  readonly count: number
  /** What `dtype=stored` gives. */
  readonly dtype: Dtype
  readonly source: StoredBytes | FrameBytes
  readonly steps: readonly RecipeStep[]
}

/** Of all tensors that have none: a model may have 300,000 of them. */
const NO_STEPS: readonly RecipeStep[] = []

/** The tensors of a model by name. */
export type Recipes = ReadonlyMap<string, Recipe>

/** A tensor whose bytes lie in a blob as they are. */
export interface StoredRecipe extends Recipe {
  readonly source: StoredBytes
}

export type StoredRecipes = ReadonlyMap<string, StoredRecipe>

/** Every blob that a recipe reads, some of them more than once. */
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
 * The recipes of a delta's result; tensors that it does not name are no part of it.
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
 * A tensor of a lossless delta. One that is all its parent's is its recipe, so that what is frozen costs nothing however long the lineage:
 * neither the index nor a recipe for each model on the way is held for it.
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

/** True if a tensor has the bytes of its parent, all of them and no others. */
function isParents({ index, tensor, parent }: Omit<FrameBytes, 'kind' | 'dtype'>): boolean {
  const { dtype, count, bytes, firstFrame } = tensor
  if (parent?.dtype !== dtype || parent.count !== count) return false
  const encodings = index.frames.encodings.subarray(firstFrame, firstFrame + frameCount(bytes))
  return encodings.every(encoding => ENCODINGS[encoding] === 'copy')
}

/** The steps that give what is stored of a recipe, and not its unrounded values. */
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

/** True if both lists name the same dimensions. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((dimension, i) => dimension === b[i])
}
