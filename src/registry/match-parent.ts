import type { Catalog, ModelRecord } from '../catalog/catalog.ts'
import {
  type DeltaIndex,
  type DeltaIndexV1,
  type Domain,
  type LosslessIndex,
  nameOrderSteps,
  type Recipes,
  sameShape,
  shardOrderSteps,
} from '../codec/index.ts'
import { RegistryError } from '../errors.ts'
import type { Executor } from '../workers/execute.ts'
import { inTurns } from '../workers/turns.ts'
import { withSums } from './checked-reads.ts'
import type { OpenedModel, OpenedModels } from './opened-models.ts'
import { hashValues, identityOf } from './proofs.ts'
import { signatureOf } from './signature.ts'

/** Models that are hashed in the order of a delta's records when no kept hash matches: `DESIGN.md`, "Lineage domains". */
const MOST_CANDIDATES = 8

export interface ParentMatch {
  readonly parent: OpenedModel
  readonly domain: Domain
}

/** What the header of a delta tells about its parent. */
export interface ParentClaim {
  readonly parentHash: string
  readonly tensors: readonly { readonly name: string; readonly shape: readonly number[] }[]
}

export interface MatchDeps {
  readonly catalog: Catalog
  readonly models: Pick<OpenedModels, 'open'>
  readonly executor: Executor
}

/**
 * Refuses a delta whose parent can't be here, from its header alone: `parent-unknown` if nothing has the hash and nothing has
 * exactly its tensors, `parent-mismatch` if the parent that the caller names lacks one of them or has another shape.
 */
export async function checkClaim(
  { catalog, models }: MatchDeps,
  claim: ParentClaim,
  named: ModelRecord | null,
): Promise<void> {
  if (named) {
    checkTensors(claim, (await models.open(named)).recipes, named.id)
    return
  }
  const { parentHash, tensors } = claim
  if ((await catalog.byHash(parentHash)).length > 0) return
  if ((await catalog.bySignature(await signatureOf(tensors), 1)).length > 0) return
  throw parentUnknown(parentHash, [])
}

/**
 * The model that a delta was made against, and which of its values. `named` is the parent that the caller gave: it's tried in
 * every order. Otherwise the newest model with a kept hash that matches, then the newest few with exactly the delta's tensors,
 * hashed in the order of its records. Rejects `parent-unknown`, or `parent-mismatch` for `named`, with the hashes expected and found.
 */
export async function matchParent(
  deps: MatchDeps,
  index: DeltaIndex,
  named: ModelRecord | null,
  signal: AbortSignal,
): Promise<ParentMatch> {
  const { catalog, models } = deps
  const { parentHash } = index
  if (index.format === 2) return matchLossless(deps, index, named, signal)
  if (named) return matchNamed(deps, index, named, signal)
  for (const record of await catalog.byHash(parentHash)) {
    const domain = keptDomain(record, parentHash)
    const parent = domain && (await openCandidate(models, record))
    if (parent) return { parent, domain }
  }
  const tried: string[] = []
  const order = index.tensors.map(({ name }) => name)
  for (const record of await catalog.bySignature(
    await signatureOf(index.tensors),
    MOST_CANDIDATES,
  )) {
    const parent = await openCandidate(models, record)
    if (!parent) continue
    for (const domain of ['stored', 'float32'] as const) {
      if (domain === 'float32' && record.hashes.float32 === null) continue
      const executor = withSums(deps.executor, parent.sums)
      const hash = await hashValues(executor, parent.recipes, order, domain, signal)
      if (hash === parentHash) return { parent, domain }
      tried.push(hash)
    }
  }
  throw parentUnknown(parentHash, tried)
}

/** A lossless delta names its parent by identity; the reference's hash only helps to find it. */
async function matchLossless(
  { catalog, models, executor }: MatchDeps,
  { parentHash, parentIdentity }: LosslessIndex,
  named: ModelRecord | null,
  signal: AbortSignal,
): Promise<ParentMatch> {
  const found: string[] = []
  for (const record of named ? [named] : await catalog.byHash(parentHash)) {
    const parent = named ? await models.open(record) : await openCandidate(models, record)
    if (!parent) continue
    const identity = await identityOf(withSums(executor, parent.sums), parent, signal)
    if (identity === parentIdentity) return { parent, domain: 'stored' }
    found.push(identity)
  }
  if (!named) throw parentUnknown(parentHash, found)
  throw new RegistryError(
    'parent-mismatch',
    `expected a parent with identity ${parentIdentity}, but model ${named.id} has ${found}`,
    { details: { expected: parentIdentity, found } },
  )
}

/** Null for a model that nobody named and that was deleted since it was found: others may match. */
async function openCandidate(
  models: MatchDeps['models'],
  record: ModelRecord,
): Promise<OpenedModel | null> {
  try {
    return await models.open(record)
  } catch (error) {
    if ((error as RegistryError).code === 'parent-deleted') return null
    throw error
  }
}

async function matchNamed(
  { models, executor }: MatchDeps,
  index: DeltaIndexV1,
  record: ModelRecord,
  signal: AbortSignal,
): Promise<ParentMatch> {
  const { parentHash } = index
  const parent = await models.open(record)
  const checked = withSums(executor, parent.sums)
  checkTensors(index, parent.recipes, record.id)
  const kept = keptDomain(record, parentHash)
  if (kept) return { parent, domain: kept }
  const inRecords = index.tensors.map(({ name }) => name)
  const inNames = await inTurns(nameOrderSteps(inRecords), signal)
  const inShards = await inTurns(shardOrderSteps(parent.manifest.shards, inNames), signal)
  const orders = [inRecords, inNames, inShards]
  const tried = new Set<string>()
  const seen = new Set<string>()
  for (const order of orders) {
    const key = JSON.stringify(order)
    if (seen.has(key)) continue
    seen.add(key)
    for (const domain of ['stored', 'float32'] as const) {
      if (domain === 'float32' && record.hashes.float32 === null) continue
      const hash = await hashValues(checked, parent.recipes, order, domain, signal)
      if (hash === parentHash) return { parent, domain }
      tried.add(hash)
    }
  }
  throw new RegistryError(
    'parent-mismatch',
    `expected a parent with hash ${parentHash}, but model ${record.id} hashes to ${record.hashes.stored} as stored and ${record.hashes.float32} as float32`,
    { details: { expected: parentHash, found: [...foundHashes(record), ...tried] } },
  )
}

/** Which of a model's kept hashes this is: stored values where both domains have it. */
function keptDomain({ hashes }: ModelRecord, hash: string): Domain | null {
  if (hash === hashes.stored || hash === hashes.shardOrder) return 'stored'
  return hash === hashes.float32 ? 'float32' : null
}

function foundHashes({ hashes }: ModelRecord): string[] {
  return [...new Set([hashes.stored, hashes.shardOrder, hashes.float32])].filter(h => h !== null)
}

function checkTensors({ tensors, parentHash }: ParentClaim, parent: Recipes, id: string): void {
  for (const { name, shape } of tensors) {
    const recipe = parent.get(name)
    if (recipe && sameShape(recipe.shape, shape)) continue
    const found = recipe ? `has it as [${recipe.shape}]` : 'has no such tensor'
    throw new RegistryError(
      'parent-mismatch',
      `tensor ${JSON.stringify(name)}: the delta expects shape [${shape}], model ${id} ${found}`,
      { details: { expected: parentHash, tensor: name } },
    )
  }
}

function parentUnknown(expected: string, found: readonly string[]): RegistryError {
  return new RegistryError(
    'parent-unknown',
    `expected a model with hash ${expected}; no model here has it`,
    { details: { expected, found } },
  )
}
