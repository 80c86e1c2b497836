import { createHash } from 'node:crypto'
import { DIGEST_BYTES } from '../codec/base/hasher.ts'
import { FRAME_BYTES } from '../codec/base/limits.ts'
import { planHash, planTensor, storedBytes } from '../codec/plan/plan.ts'
import type { Recipe, Recipes } from '../codec/plan/recipes.ts'
import { identitySteps } from '../codec/safetensors/identity.ts'
import type { BatchHash, Engine } from './engine.ts'
import { mapOrdered } from './map-ordered.ts'
import type { TaskParts } from './task-parts.ts'
import { inTurns } from './turns.ts'

/** Tensors, or groups of small ones, that are hashed side by side. */
const WINDOW = 4
/** Most small tensors that one task hashes. */
const GROUP = 256
/** Most models behind the tensors of a group, added up: planning them must not hold the event loop. */
const MAX_LEVELS = 1024

/** The hashes of a model over its tensors in name order, hex. */
export interface TensorHashes {
  /** Lineage hashes: see `planHash`. `float32` is null if it was not asked for. */
  readonly stored: string
  readonly float32: string | null
  readonly identity: string
}

/**
 * All hashes of a model that are taken in name order, by one worker that decodes each frame once. `names` are those of all recipes in name order.
 * `widens`: take the float32 hash too, which is right only if no recipe has steps and every dtype is one that `canWiden`. Rejects with what reading
 * or decoding throws.
 */
export async function hashTensors(
  engine: Engine,
  recipes: Recipes,
  { names, widens }: { readonly names: readonly string[]; readonly widens: boolean },
  signal?: AbortSignal,
): Promise<TensorHashes> {
  const digests = new Uint8Array(names.length * DIGEST_BYTES)
  let ended = 0
  const keep = (bytes: Uint8Array) => {
    digests.set(bytes, ended)
    ended += bytes.length
  }
  const session = engine.openModelHash(widens, signal)
  const tensors: Recipe[] = []
  const update: BatchHash<unknown>['update'] = async ({ segments }, { pieces, buffers }) => {
    const begin = tensors.length
    const end = begin + segments.filter(({ kind }) => kind === 'bytes').length
    const begun = names.slice(begin, end).map(name => recipes.get(name)!)
    const dtypes = begun.map(({ dtype }) => dtype)
    keep(await session.update(pieces, buffers, dtypes))
    // After the update: if that fails, the same batch may come again.
    tensors.push(...begun)
  }
  const digest = async () => {
    const { tensors: last, stored, float32 } = await session.digest()
    keep(last)
    return { stored: stored!, float32 }
  }
  const segments = planHash(recipes, names, 'stored')
  const hash = { update, digest, abandon: session.abandon }
  const lineage = await engine.feed(segments, hash, signal)
  return { ...lineage, identity: await identityFrom(tensors, digests, signal) }
}

/**
 * The identity of a model, hex: see `identityBytes`. Unlike {@link hashTensors}, it keeps all workers busy. Rejects with what reading or decoding
 * throws.
 */
export async function identify(
  engine: Engine,
  recipes: Recipes,
  signal?: AbortSignal,
): Promise<string> {
  const tensors = [...recipes.values()]
  const digests = new Uint8Array(tensors.length * DIGEST_BYTES)
  let at = 0
  const hashed = mapOrdered(groups(tensors), WINDOW, group => digestsOf(group, engine, signal))
  for await (const group of hashed) {
    for (const digest of group) {
      digests.set(digest, at)
      at += DIGEST_BYTES
    }
  }
  return identityFrom(tensors, digests, signal)
}

/** The identity, from the SHA-256 of the tensors, one after the other in `digests`. */
async function identityFrom(
  tensors: readonly Recipe[],
  digests: Uint8Array,
  signal: AbortSignal | undefined,
): Promise<string> {
  const hash = createHash('sha256')
  await inTurns(
    identitySteps(tensors, digests, bytes => hash.update(bytes)),
    signal,
  )
  return hash.digest('hex')
}

/** Large tensors one by one, small neighbours in groups. */
function* groups(recipes: Iterable<Recipe>): Generator<Recipe[]> {
  let open: Recipe[] = []
  let size = 0
  let levels = 0
  for (const recipe of recipes) {
    const bytes = storedBytes(recipe)
    const isFull = size + bytes > FRAME_BYTES || open.length === GROUP || levels >= MAX_LEVELS
    if (open.length > 0 && isFull) {
      yield open
      open = []
      size = 0
      levels = 0
    }
    open.push(recipe)
    size += bytes
    levels += levelsOf(recipe)
  }
  if (open.length > 0) yield open
}

/** The number of models whose frames a tensor is made from. */
function levelsOf({ source }: Recipe): number {
  let levels = 1
  for (let at = source; at.kind === 'lossless' && at.parent; at = at.parent.source) levels++
  return levels
}

async function digestsOf(
  tensors: readonly Recipe[],
  engine: Engine,
  signal: AbortSignal | undefined,
): Promise<readonly Uint8Array[]> {
  const planOf = (recipe: Recipe) =>
    planTensor(recipe, recipe.dtype, { start: 0, end: storedBytes(recipe) })
  const [first] = tensors
  if (tensors.length === 1 && storedBytes(first!) > FRAME_BYTES) {
    return [Buffer.from(await engine.digest(planOf(first!), signal), 'hex')]
  }
  const pieces = (parts: TaskParts) => tensors.map(recipe => parts.pieces([...planOf(recipe)]))
  return engine.run(parts => ({ kind: 'digests', tensors: pieces(parts) }), signal)
}
