/**
 * Which values of a parent, in which order, the `parent_hash` of a record delta is of. The reference hashes a model in the order in which it
 * happens to load it: files one by one, the end of a chain by name, what a delta names in the order of its records; and it adds a delta to
 * stored values or to unrounded float32 ones. Whoever makes a delta and whoever looks for its parent ask here.
 */
import type { Steps } from '../base/steps.ts'
import { canWiden } from '../base/widen.ts'
import type { Shard } from '../safetensors/layout.ts'
import { nameOrderSteps, shardOrderSteps } from '../safetensors/model-folder.ts'
import type { Domain, Recipes } from './recipes.ts'

/** Names of tensors, in the order in which they are hashed. */
export type HashOrder = readonly string[]

/** What one hash is taken of: see `planHash`. */
interface HashInput {
  readonly names: HashOrder
  readonly domain: Domain
}

/** A record delta as far as its parent's hash goes; tensors in the order of its records. */
export interface NamedTensors {
  readonly tensors: readonly { readonly name: string }[]
}

/** A parent as far as its hash goes. */
export interface HashedParent {
  readonly recipes: Recipes
  /** Its files, which the reference loads one by one; null for the end of a chain in float32, which has none. */
  readonly shards: readonly Shard[] | null
}

/** True if all tensors have float32 values: without them there is no hash of `float32`. */
export function canWidenAll(recipes: Recipes): boolean {
  for (const { dtype } of recipes.values()) if (!canWiden(dtype)) return false
  return true
}

/** The values that a record delta may have been made against, the likeliest first: those of a parent in files are the stored ones. */
export function likelyDomains(
  shards: HashedParent['shards'],
  widens: boolean,
): readonly [Domain, ...Domain[]] {
  if (!widens) return ['stored']
  return shards ? ['stored', 'float32'] : ['float32', 'stored']
}

/** How a record delta against a parent is made, so that the reference finds the same hash when it loads that parent. */
export interface WrittenParent {
  /** The values that it is encoded against, and that are hashed. */
  readonly domain: Domain
  /** The order of its records. */
  readonly records: HashOrder
  /** True if the hash is of all tensors of the parent by name, false if it is of `records`. */
  readonly hashesAll: boolean
}

/** The choice of a writer, for a fine-tune with the tensors `tuned`. `widens`: see {@link canWidenAll}. */
export function* writtenParentSteps(
  shards: HashedParent['shards'],
  tuned: Iterable<string>,
  widens: boolean,
): Steps<WrittenParent> {
  const names = yield* nameOrderSteps(tuned)
  const [domain] = likelyDomains(shards, widens)
  if (!shards) return { domain, records: names, hashesAll: true }
  return { domain, records: yield* shardOrderSteps(shards, names), hashesAll: false }
}

/** The orders in which a saver may have hashed what a delta names, the likeliest first: of its records, by name, and by file. */
export function* recordOrdersSteps(
  { tensors }: NamedTensors,
  shards: readonly Shard[],
): Steps<readonly HashOrder[]> {
  const records = tensors.map(({ name }) => name)
  const named = yield* nameOrderSteps(records)
  return [records, named, yield* shardOrderSteps(shards, named)]
}

/**
 * All orders in which a saver may have hashed, the likeliest first: that of the records is always right for a parent in files, all of the
 * parent's tensors by name for a chain.
 */
export function* hashOrdersSteps(
  { recipes, shards }: HashedParent,
  delta: NamedTensors,
): Steps<readonly HashOrder[]> {
  const all = yield* nameOrderSteps(recipes.keys())
  if (shards) {
    return [...(yield* recordOrdersSteps(delta, shards)), all, yield* shardOrderSteps(shards, all)]
  }
  const records = delta.tensors.map(({ name }) => name)
  return [all, yield* nameOrderSteps(records), records]
}

/** Every order with every domain, no order twice. */
export function* hashInputs(
  orders: Iterable<HashOrder>,
  domains: readonly Domain[],
): Generator<HashInput> {
  const seen = new Set<string>()
  for (const names of orders) {
    const key = JSON.stringify(names)
    if (seen.has(key)) continue
    seen.add(key)
    for (const domain of domains) yield { names, domain }
  }
}
