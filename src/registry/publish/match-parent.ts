import type { ModelRecord } from '../../catalog/records.ts'
import { hashInputs, likelyDomains, recordOrdersSteps } from '../../codec/plan/parent-hash.ts'
import type { Recipes } from '../../codec/plan/recipes.ts'
import type { DeltaIndex, FrameDelta, RecordDelta } from '../../codec/wdelta/delta-index.ts'
import { RegistryError } from '../../errors.ts'
import { inTurns } from '../../workers/turns.ts'
import { checkedEngine } from '../models/checked-reads.ts'
import type { OpenedModel } from '../models/opened-models.ts'
import { signatureOf } from '../models/signature.ts'
import {
  candidatesOf,
  keptDomain,
  lackingTensor,
  type MatchDeps,
  type Misfit,
  otherTensors,
  type ParentClaim,
  type ParentMatch,
  parentUnknown,
  passedOver,
} from './candidates.ts'
import { ParentSearch } from './parent-search.ts'
import { hashValues, identityOf } from './proofs.ts'

/**
 * Refuses a delta whose parent can't be here, from its header alone: `parent-unknown` if nothing has the hash and nothing has
 * exactly its tensors, `parent-mismatch` if the parent that the caller names lacks one of them or has another shape.
 */
export async function checkClaim(
  deps: MatchDeps,
  claim: ParentClaim,
  named: ModelRecord | null,
): Promise<void> {
  if (named) {
    checkTensors(claim, (await deps.models.open(named)).recipes, named.id)
    return
  }
  const { catalog } = deps
  const { parentHash, tensors } = claim
  const signature = await signatureOf(tensors)
  const query = { hash: parentHash, named: { signature, count: tensors.length } }
  if ((await catalog.candidates(query, 1)).length > 0) return
  if ((await catalog.bySignature(signature, 1)).length > 0) return
  throw parentUnknown(parentHash, [], await otherTensors(deps, claim))
}

/**
 * The model that a delta was made against, and which of its values. `named` is the parent that the caller gave: it is tried in
 * every order. Otherwise it is the newest model that can be read, fits and has a kept hash that matches; if there is none, the newest of a few
 * with exactly the delta's tensors, hashed in the order of its records. Rejects `parent-unknown`, or `parent-mismatch` for `named`, with the
 * hashes expected and found; `parent-ambiguous` for several that match and differ in dtypes, which neither the hash nor a record delta names.
 */
export async function matchParent(
  deps: MatchDeps,
  index: DeltaIndex,
  named: ModelRecord | null,
  signal: AbortSignal,
): Promise<ParentMatch> {
  if (index.parentIdentity !== undefined) return matchFrameDelta(deps, index, named, signal)
  if (named) return matchNamed(deps, index, named, signal)
  const search = new ParentSearch(deps, index, signal)
  return (await search.byKeptHash()) ?? (await search.byRecordOrder())
}

/** A frame delta names its parent by identity; the reference's hash only helps to find it. */
async function matchFrameDelta(
  deps: MatchDeps,
  index: FrameDelta,
  named: ModelRecord | null,
  signal: AbortSignal,
): Promise<ParentMatch> {
  const { models, engine } = deps
  const { parentHash, parentIdentity } = index
  const identify = (model: OpenedModel) =>
    identityOf(checkedEngine(engine, model.sums), model, signal)
  if (named) {
    const parent = await models.open(named)
    const found = await identify(parent)
    if (found === parentIdentity) return { parent, domain: 'stored' }
    throw new RegistryError(
      'parent-mismatch',
      `expected a parent with identity ${parentIdentity}, but model ${named.id} has ${found}`,
      { details: { expected: parentIdentity, found } },
    )
  }
  const unread: RegistryError[] = []
  const others: (Misfit & { readonly identity: string })[] = []
  for await (const parent of candidatesOf(deps, { hash: parentHash, named: null }, unread)) {
    const identity = await passedOver(() => identify(parent), unread)
    if (identity === null) continue
    if (identity === parentIdentity) return { parent, domain: 'stored' }
    const { id, name } = parent.record
    others.push({ id, name, identity, why: `its identity is ${identity}, not ${parentIdentity}` })
  }
  if (unread[0]) throw unread[0]
  const found = others.map(({ identity }) => identity)
  throw parentUnknown(parentHash, found, others)
}

/** Tries the hash of a record delta in every order on the parent that the caller names. */
async function matchNamed(
  { models, engine }: MatchDeps,
  index: RecordDelta,
  record: ModelRecord,
  signal: AbortSignal,
): Promise<ParentMatch> {
  const { parentHash } = index
  const parent = await models.open(record)
  const checked = checkedEngine(engine, parent.sums)
  checkTensors(index, parent.recipes, record.id)
  const kept = keptDomain(record, parentHash)
  if (kept) return { parent, domain: kept }
  const { shards } = parent.manifest
  const orders = await inTurns(recordOrdersSteps(index, shards), signal)
  const domains = likelyDomains(shards, record.hashes.float32 !== null)
  const tried = new Set<string>()
  for (const { names, domain } of hashInputs(orders, domains)) {
    const hash = await hashValues(checked, parent.recipes, names, domain, signal)
    if (hash === parentHash) return { parent, domain }
    tried.add(hash)
  }
  throw new RegistryError(
    'parent-mismatch',
    `expected a parent with hash ${parentHash}, but model ${record.id} hashes to ${record.hashes.stored} as stored and ${record.hashes.float32} as float32`,
    { details: { expected: parentHash, found: [...foundHashes(record), ...tried] } },
  )
}

function foundHashes({ hashes }: ModelRecord): string[] {
  return [...new Set([hashes.stored, hashes.shardOrder, hashes.float32])].filter(h => h !== null)
}

function checkTensors(claim: ParentClaim, parent: Recipes, id: string): void {
  const lacking = lackingTensor(claim, parent)
  if (!lacking) return
  const { tensor, why } = lacking
  throw new RegistryError('parent-mismatch', `model ${id}: ${why}`, {
    details: { expected: claim.parentHash, tensor },
  })
}
