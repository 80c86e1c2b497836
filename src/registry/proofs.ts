import type { ErrorFigures, FileRecord, ModelRecord } from '../catalog/catalog.ts'
import {
  canWiden,
  type Domain,
  type Dtype,
  FRAME_BYTES,
  isFloat,
  type Layout,
  nameOrderSteps,
  planFrame,
  planHash,
  planRange,
  type Recipe,
  type Recipes,
  type Shard,
  type StoredRecipe,
  type StoredRecipes,
  shardOrderSteps,
} from '../codec/index.ts'
import { digest, type Executor, gatherTuned, mapOrdered, withRetries } from '../workers/execute.ts'
import { identify } from '../workers/identify.ts'
import type { Comparison } from '../workers/tasks.ts'
import { inTurns } from '../workers/turns.ts'
import type { OpenedModel } from './opened-models.ts'

/** SHA-256 of a file with this layout, by reconstructing it once. */
export function hashFile(
  executor: Executor,
  recipes: Recipes,
  layout: Layout,
  signal: AbortSignal,
): Promise<string> {
  const segments = planRange(recipes, layout, { start: 0, end: layout.size })
  return digest(segments, executor, signal)
}

/** A lineage hash of `names` in this order: see `planHash`. */
export function hashValues(
  executor: Executor,
  recipes: Recipes,
  names: Iterable<string>,
  domain: Domain,
  signal: AbortSignal,
): Promise<string> {
  return digest(planHash(recipes, names, domain), executor, signal)
}

/**
 * The hashes that a delta may name a model by: see `DESIGN.md`, "Lineage domains". `shards` are the files that the model was
 * published as. Equal orders and equal values are hashed once.
 */
export async function hashModel(
  executor: Executor,
  recipes: Recipes,
  shards: readonly Shard[],
  signal: AbortSignal,
): Promise<ModelRecord['hashes']> {
  const names = await inTurns(nameOrderSteps(recipes.keys()), signal)
  const grouped = await inTurns(shardOrderSteps(shards, names), signal)
  const sameOrder = names.every((name, i) => name === grouped[i])
  const dtypes = new Set<Dtype>()
  for (const { dtype } of recipes.values()) dtypes.add(dtype)
  const widens = [...dtypes].every(canWiden)
  const sameValues = [...dtypes].every(dtype => dtype === 'F32')
  const stored = hashValues(executor, recipes, names, 'stored', signal)
  const shardOrderHash = sameOrder
    ? stored
    : hashValues(executor, recipes, grouped, 'stored', signal)
  const float32 = !widens
    ? null
    : sameValues
      ? stored
      : hashValues(executor, recipes, names, 'float32', signal)
  const [storedHex, shardHex, float32Hex] = await Promise.all([stored, shardOrderHash, float32])
  return { stored: storedHex, shardOrder: shardHex, float32: float32Hex }
}

/** The identity of a model, hex, taken now if it was not when it was published. */
export async function identityOf(
  executor: Executor,
  { manifest, recipes }: OpenedModel,
  signal: AbortSignal,
): Promise<string> {
  return manifest.identity ?? identify(executor, recipes, signal)
}

/** The safetensors files of a model whose bytes are reconstructed, each hashed by doing so. */
export async function proveFiles(
  executor: Executor,
  recipes: Recipes,
  shards: readonly Shard[],
  signal: AbortSignal,
): Promise<FileRecord[]> {
  const files: FileRecord[] = []
  for (const { path, layout } of shards) {
    const sha256 = await hashFile(executor, recipes, layout, signal)
    files.push({ path, size: layout.size, sha256, blob: null })
  }
  return files
}

/** Frames compared at once. */
const WINDOW = 4

/**
 * Reconstruction error of every float tensor against what was uploaded, and of the whole: nmse is the squared error over the
 * squared change from parent to upload (1 would be: as far off as without any delta), maxAbs the largest single error. Both
 * over finite values, of what `dtype=stored` gives.
 */
export async function measureError(
  executor: Executor,
  { recipes, parent, tuned }: { recipes: Recipes; parent: Recipes; tuned: StoredRecipes },
  signal: AbortSignal,
): Promise<{ whole: ErrorFigures; byTensor: Map<string, ErrorFigures> }> {
  const byTensor = new Map<string, ErrorFigures>()
  let total = NOTHING
  for (const recipe of recipes.values()) {
    const upload = tuned.get(recipe.name)!
    let sum = NOTHING
    if (recipe.steps.length > 0) {
      const parentSteps = parent.get(recipe.name)!.steps.length
      const compare = (run: Run) => compareRun(executor, recipe, parentSteps, upload, run, signal)
      for await (const part of mapOrdered(runs(recipe), WINDOW, compare)) sum = add(sum, part)
    }
    byTensor.set(recipe.name, figures(sum))
    total = add(total, sum)
  }
  return { whole: figures(total), byTensor }
}

interface Run {
  readonly first: number
  readonly count: number
}

const NOTHING: Comparison = { squaredError: 0, maxAbs: 0, squaredDelta: 0 }

/** Elements of float32 frames: what the accumulator of a comparison holds. */
function* runs({ count }: Recipe): Generator<Run> {
  const grid = FRAME_BYTES / 4
  for (let first = 0; first < count; first += grid) {
    yield { first, count: Math.min(grid, count - first) }
  }
}

async function compareRun(
  executor: Executor,
  recipe: Recipe,
  parentSteps: number,
  upload: StoredRecipe,
  { first, count }: Run,
  signal: AbortSignal,
): Promise<Comparison> {
  if (!isFloat(recipe.dtype)) return NOTHING
  const stored = recipe.dtype
  const compare = async (source: Executor) => {
    using _slot = await executor.slots.take(signal)
    const planned = planFrame(recipe, stored, { first, count })
    const { tuned, buffers } = await gatherTuned(source, { planned, tuned: upload.source, signal })
    const task = { kind: 'compare', ...tuned, parentSteps, stored } as const
    // Awaited here: the slot is given back at the end of this block.
    return await executor.pool.run(task, buffers, signal)
  }
  return withRetries(executor, compare, signal)
}

function add(a: Comparison, b: Comparison): Comparison {
  return {
    squaredError: a.squaredError + b.squaredError,
    maxAbs: Math.max(a.maxAbs, b.maxAbs),
    squaredDelta: a.squaredDelta + b.squaredDelta,
  }
}

function figures({ squaredError, maxAbs, squaredDelta }: Comparison): ErrorFigures {
  return { nmse: squaredError === 0 ? 0 : squaredError / (squaredDelta || squaredError), maxAbs }
}
