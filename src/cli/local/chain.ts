import { LIMITS } from '../../codec/base/limits.ts'
import { complete } from '../../codec/base/steps.ts'
import { checkExpansion } from '../../codec/plan/expansion.ts'
import {
  canWidenAll,
  hashInputs,
  hashOrdersSteps,
  likelyDomains,
} from '../../codec/plan/parent-hash.ts'
import { planHash } from '../../codec/plan/plan.ts'
import {
  applyLink,
  type BaseShard,
  baseRecipes,
  type Domain,
  type Link,
  type Recipes,
} from '../../codec/plan/recipes.ts'
import type { Shard } from '../../codec/safetensors/layout.ts'
import type { Engine } from '../../workers/engine.ts'
import { identify } from '../../workers/identify.ts'
import { CliError, inFile } from '../failure.ts'
import type { LocalDelta } from './model.ts'

/** A base and the deltas on it, oldest first. They may not belong together. */
export interface Chain {
  readonly shards: readonly BaseShard[]
  readonly deltas: readonly LocalDelta[]
}

/** Works on the model at the end of a chain, `recipes`. `links[i]` is the model that delta i makes. */
type UseChain<T> = (recipes: Recipes, signal: AbortSignal, links: readonly Recipes[]) => Promise<T>

/**
 * The model at the end of a chain, without checking hashes: every delta after one of version 1 is added to float32 values, as in the reference.
 * @throws CliError if a delta does not fit its parent in names or shapes
 */
export function trustChain(chain: Chain): Recipes {
  return chainRecipes(chain, guessDomains(chain)).at(-1)!
}

/**
 * Proves every link of a chain by its `parent_hash`, and meanwhile calls `use` with the model at its end, on the assumption that each delta after
 * one of version 1 was made against float32 values, as nearly all are. If a hash disproves that, `use` is aborted and called again.
 * Rejects with CliError `parent-mismatch`, or as `use` does.
 */
export async function proveChain<T>(
  engine: Engine,
  chain: Chain,
  use: UseChain<T>,
  signal: AbortSignal,
): Promise<T> {
  let domains = guessDomains(chain)
  for (;;) {
    const attempt = new AbortController()
    const both = AbortSignal.any([signal, attempt.signal])
    const recipes = chainRecipes(chain, domains)
    const result = use(recipes.at(-1)!, both, recipes.slice(1))
    // It may fail while the proofs are still awaited.
    result.catch(() => {})
    const proofs = chain.deltas.map((_delta, i) =>
      proveLink(engine, chain, { i, parent: recipes[i]! }, both).catch(error => {
        // It is awaited after all links before it are proven, so a decoding error is due to the delta that made the parent.
        throw i === 0 ? error : inFile(chain.deltas[i - 1]!.path, error)
      }),
    )
    try {
      const found = await firstOther(proofs, domains)
      if (!found) return await result
      domains = domains.with(found.link, found.domain)
    } finally {
      attempt.abort(new DOMException('The chain is not as it was taken to be', 'AbortError'))
      await Promise.allSettled([...proofs, result])
    }
  }
}

/** The first link whose hash is of other values than assumed; null if there is none. Rejects at the first link that matches nothing. */
async function firstOther(
  proofs: readonly Promise<Domain>[],
  assumed: readonly Domain[],
): Promise<{ link: number; domain: Domain } | null> {
  // A proof that is not awaited, because an earlier one ended the loop, must not count as unhandled.
  for (const proof of proofs) proof.catch(() => {})
  for (const [link, proof] of proofs.entries()) {
    const domain = await proof
    if (domain !== assumed[link]) return { link, domain }
  }
  return null
}

function guessDomains(chain: Chain): Domain[] {
  return chain.deltas.map(({ index }, i) =>
    // A frame delta is made against stored values; of a record delta, only its hash could tell.
    index.parentIdentity === undefined ? likelyDomains(parentShards(chain, i), true)[0] : 'stored',
  )
}

/** The files that delta `i` was made against; null if its parent is a version 1 delta, which gives float32 values and no files. */
export function parentShards({ shards, deltas }: Chain, i: number): readonly Shard[] | null {
  if (i === 0) return shards
  return deltas[i - 1]!.index.shards ?? null
}

/** The recipes of the base, and those after each delta. */
function chainRecipes({ shards, deltas }: Chain, domains: readonly Domain[]): Recipes[] {
  if (deltas.length > LIMITS.chainDepth) {
    const came = `expected at most ${LIMITS.chainDepth} deltas, got ${deltas.length}`
    throw new CliError('chain-too-deep', came)
  }
  const recipes: Recipes[] = [baseRecipes(shards)]
  deltas.forEach(({ path, index }, i) => {
    const link: Link = { blob: path, index, domain: domains[i]! }
    try {
      const parent = recipes.at(-1)!
      const made = applyLink(parent, link)
      checkExpansion(parent, made, index.size)
      recipes.push(made)
    } catch (error) {
      throw inFile(path, error)
    }
  })
  return recipes
}

/** Which values of `parent` delta `i` was made against: `stored` if it has no others. */
async function proveLink(
  engine: Engine,
  chain: Chain,
  { i, parent }: { i: number; parent: Recipes },
  signal: AbortSignal,
): Promise<Domain> {
  const { path, index } = chain.deltas[i]!
  const shards = parentShards(chain, i)
  const which = i === 0 ? 'the base' : 'the model before it'
  if (index.parentIdentity !== undefined) {
    const identity = await identify(engine, parent, signal)
    if (identity === index.parentIdentity) return 'stored'
    const message = `expected a parent with identity ${index.parentIdentity}, but ${which} has ${identity}`
    throw new CliError('parent-mismatch', `${path}: ${message}`)
  }
  const orders = complete(hashOrdersSteps({ recipes: parent, shards }, index))
  const domains = likelyDomains(shards, canWidenAll(parent))
  const found: string[] = []
  for (const { names, domain } of hashInputs(orders, domains)) {
    const hex = await engine.digest(planHash(parent, names, domain), signal)
    if (hex === index.parentHash) return shards ? 'stored' : domain
    found.push(`${hex} (${domain})`)
  }
  throw new CliError(
    'parent-mismatch',
    `${path}: expected a parent with hash ${index.parentHash}, but ${which} hashes to ${[...new Set(found)].join(', ')}`,
  )
}
