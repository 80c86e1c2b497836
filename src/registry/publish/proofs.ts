import type { ErrorFigures, FileRecord, ModelRecord } from '../../catalog/records.ts'
import { canWiden } from '../../codec/base/widen.ts'
import { planHash, planRange } from '../../codec/plan/plan.ts'
import type { Domain, Recipe, Recipes, StoredRecipes } from '../../codec/plan/recipes.ts'
import type { Layout, Shard } from '../../codec/safetensors/layout.ts'
import { nameOrderSteps, shardOrderSteps } from '../../codec/safetensors/model-folder.ts'
import type { Comparison } from '../../workers/compare.ts'
import { addComparisons, compareTensor, NO_DIFFERENCE } from '../../workers/compare.ts'
import type { Engine } from '../../workers/engine.ts'
import { hashTensors, identify } from '../../workers/identify.ts'
import { inTurns } from '../../workers/turns.ts'
import type { OpenedModel } from '../models/opened-models.ts'

/** SHA-256 of a file with this layout, by reconstructing it once. */
export function hashFile(
  engine: Engine,
  recipes: Recipes,
  layout: Layout,
  signal: AbortSignal,
): Promise<string> {
  const segments = planRange(recipes, layout, { start: 0, end: layout.size })
  return engine.digest(segments, signal)
}

/** A lineage hash of `names` in this order: see `planHash`. */
export function hashValues(
  engine: Engine,
  recipes: Recipes,
  names: Iterable<string>,
  domain: Domain,
  signal: AbortSignal,
): Promise<string> {
  return engine.digest(planHash(recipes, names, domain), signal)
}

/** What a model is known by: the hashes that a delta may name it by, and its identity (`docs/lineage.md`). */
export interface ModelHashes {
  readonly hashes: ModelRecord['hashes']
  readonly identity: string
}

/**
 * Hashes a model. `shards` are the files that it was published as. Equal orders and equal values are hashed once, and each frame is decoded once
 * for all that goes by name order, where that is more than a read.
 */
export async function hashModel(
  engine: Engine,
  recipes: Recipes,
  shards: readonly Shard[],
  signal: AbortSignal,
): Promise<ModelHashes> {
  const names = await inTurns(nameOrderSteps(recipes.keys()), signal)
  const grouped = await inTurns(shardOrderSteps(shards, names), signal)
  const sameOrder = names.every((name, i) => name === grouped[i])
  const float32 = float32Pass([...recipes.values()])
  const widens = float32 === 'shared'
  const [model, shardOrder, apart] = await allOrNone(signal, ending => [
    hashTensors(engine, recipes, { names, widens }, ending),
    sameOrder ? null : hashValues(engine, recipes, grouped, 'stored', ending),
    float32 === 'apart' ? hashValues(engine, recipes, names, 'float32', ending) : null,
  ])
  const { stored, identity } = model
  const hashes = {
    stored,
    shardOrder: shardOrder ?? stored,
    float32: float32 === 'stored' ? stored : (apart ?? model.float32),
  }
  return { hashes, identity }
}

/**
 * How to take the float32 hash: it equals the stored one, or there is none; shared with the pass over stored values; or in a pass of its own, where
 * steps change the values, or where decoding is only reading, so that two workers hash side by side.
 */
function float32Pass(recipes: readonly Recipe[]): 'stored' | 'none' | 'shared' | 'apart' {
  if (!recipes.every(({ dtype }) => canWiden(dtype))) return 'none'
  if (recipes.some(({ steps }) => steps.length > 0)) return 'apart'
  if (recipes.every(({ dtype }) => dtype === 'F32')) return 'stored'
  return recipes.some(({ source }) => source.kind === 'lossless') ? 'shared' : 'apart'
}

/**
 * Reconstructs the files of a model and hashes it, side by side. `check` throws for files that are not what they should be.
 * The first failure aborts the rest; all of it has ended when the error is thrown.
 */
export async function proveModel(
  engine: Engine,
  { recipes, shards }: { readonly recipes: Recipes; readonly shards: readonly Shard[] },
  check: (files: readonly FileRecord[]) => void,
  signal: AbortSignal,
): Promise<ModelHashes & { readonly files: readonly FileRecord[] }> {
  const prove = async (ending: AbortSignal) => {
    const files = await proveFiles(engine, recipes, shards, ending)
    check(files)
    return files
  }
  const [files, hashed] = await allOrNone(signal, ending => [
    prove(ending),
    hashModel(engine, recipes, shards, ending),
  ])
  return { ...hashed, files }
}

/** Awaits all that `begin` gives. When one fails, the others are aborted; they have ended when its error is thrown. */
async function allOrNone<const T extends readonly unknown[]>(
  signal: AbortSignal,
  begin: (signal: AbortSignal) => T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  const failed = new AbortController()
  const under = begin(AbortSignal.any([signal, failed.signal]))
  try {
    return await Promise.all(under)
  } catch (error) {
    failed.abort(error)
    await Promise.allSettled(under)
    throw error
  }
}

/** The identity of a model, hex; computed now if it was not when the model was published. */
export async function identityOf(
  engine: Engine,
  { manifest, recipes }: OpenedModel,
  signal: AbortSignal,
): Promise<string> {
  return manifest.identity ?? identify(engine, recipes, signal)
}

/** Reconstructs the safetensors files of a model and hashes each. */
async function proveFiles(
  engine: Engine,
  recipes: Recipes,
  shards: readonly Shard[],
  signal: AbortSignal,
): Promise<FileRecord[]> {
  const files: FileRecord[] = []
  for (const { path, layout } of shards) {
    const sha256 = await hashFile(engine, recipes, layout, signal)
    files.push({ path, size: layout.size, sha256, blob: null })
  }
  return files
}

/**
 * Reconstruction error of every float tensor against what was uploaded, and of the whole: nmse is the squared error over the
 * squared change from parent to upload (1 would be: as far off as without any delta), maxAbs the largest single error. Both
 * over finite values, of what `dtype=stored` gives.
 */
export async function measureError(
  engine: Engine,
  { recipes, parent, tuned }: { recipes: Recipes; parent: Recipes; tuned: StoredRecipes },
  signal: AbortSignal,
): Promise<{ whole: ErrorFigures; byTensor: Map<string, ErrorFigures> }> {
  const byTensor = new Map<string, ErrorFigures>()
  let total = NO_DIFFERENCE
  for (const recipe of recipes.values()) {
    const upload = tuned.get(recipe.name)!
    let sum = NO_DIFFERENCE
    if (recipe.steps.length > 0) {
      const parentSteps = parent.get(recipe.name)!.steps.length
      sum = await compareTensor(engine, { recipe, parentSteps, upload }, signal)
    }
    byTensor.set(recipe.name, figures(sum))
    total = addComparisons(total, sum)
  }
  return { whole: figures(total), byTensor }
}

function figures({ squaredError, maxAbs, squaredDelta }: Comparison): ErrorFigures {
  return { nmse: squaredError === 0 ? 0 : squaredError / (squaredDelta || squaredError), maxAbs }
}
