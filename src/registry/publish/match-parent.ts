import type { CandidateQuery, Catalog } from '../../catalog/catalog.ts'
import type { ModelRecord } from '../../catalog/records.ts'
import { isFloat } from '../../codec/base/dtypes.ts'
import { CodecError } from '../../codec/base/errors.ts'
import type { Steps } from '../../codec/base/steps.ts'
import { hashInputs, likelyDomains, recordOrdersSteps } from '../../codec/plan/parent-hash.ts'
import { applyLinkSteps, type Domain, type Recipes, sameShape } from '../../codec/plan/recipes.ts'
import type { DeltaIndex, FrameDelta, RecordDelta } from '../../codec/wdelta/delta-index.ts'
import { RegistryError } from '../../errors.ts'
import type { Engine } from '../../workers/engine.ts'
import { inTurns } from '../../workers/turns.ts'
import { checkedEngine } from '../models/checked-reads.ts'
import type { OpenedModel, OpenedModels } from '../models/opened-models.ts'
import { signatureOf } from '../models/signature.ts'
import { translateErrors } from '../translate.ts'
import { hashValues, identityOf } from './proofs.ts'

/** Most models that are hashed in the order of a delta's records when no kept hash matches (`docs/lineage.md`). */
const MAX_HASHED = 8
/** Models that are opened to see whether a delta fits. */
const MAX_OPENED = 32
/** What says of one model that its bytes are not there, or not those that were stored. */
const UNREADABLE: readonly string[] = ['damaged', 'blob-missing', 'blob-short', 'storage-failed']

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
  readonly engine: Engine
}

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
 * The model that a delta was made against, and which of its values. `named` is the parent that the caller gave: it's tried in
 * every order. Otherwise the newest model that can be read, fits and has a kept hash that matches; where there is none, the newest of a few with exactly the
 * delta's tensors, hashed in the order of its records. Rejects `parent-unknown`, or `parent-mismatch` for `named`, with the hashes expected and
 * found; `parent-ambiguous` for several that match and differ in dtypes, which neither the hash nor a version 1 delta names.
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

/** A model that a delta does not fit, and why. */
interface Misfit {
  readonly id: string
  readonly name: string
  readonly why: string
}

/** A search for the parent of a version 1 delta among the models that match and that it fits, newest first. */
class ParentSearch {
  readonly #deps: MatchDeps
  readonly #index: RecordDelta
  readonly #signal: AbortSignal
  /** By id. */
  readonly #misfits = new Map<string, Misfit>()
  readonly #tried: string[] = []

  constructor(deps: MatchDeps, index: RecordDelta, signal: AbortSignal) {
    this.#deps = deps
    this.#index = index
    this.#signal = signal
  }

  /** The model with a kept hash that matches; null where there is none. */
  async byKeptHash(): Promise<ParentMatch | null> {
    const { parentHash: hash, tensors } = this.#index
    const named = { signature: await signatureOf(tensors), count: tensors.length }
    const unread: RegistryError[] = []
    const matches: ParentMatch[] = []
    for await (const parent of candidatesOf(this.#deps, { hash, named }, unread)) {
      const domain = keptDomain(parent.record, hash)
      if (domain && (await this.#fits(parent, domain))) matches.push({ parent, domain })
    }
    const match = this.#choose(matches)
    if (!match && unread[0]) throw unread[0]
    return match
  }

  /** The model whose values, hashed in the order of the records, match. Rejects `parent-unknown` where there is none. */
  async byRecordOrder(): Promise<ParentMatch> {
    const { catalog, models } = this.#deps
    const { parentHash, tensors } = this.#index
    const matches: ParentMatch[] = []
    let hashed = 0
    for (const record of await catalog.bySignature(await signatureOf(tensors), MAX_OPENED)) {
      if (hashed === MAX_HASHED) break
      const parent = await openCandidate(models, record)
      if (!parent || !(await this.#fits(parent, 'stored'))) continue
      // It could neither be the newest nor differ from it.
      if (matches[0] && !this.#differ(matches[0].parent, parent)) continue
      hashed++
      const domain = await passedOver(() => this.#hash(parent))
      if (domain) matches.push({ parent, domain })
    }
    const match = this.#choose(matches)
    if (match) return match
    const others = await otherTensors(this.#deps, this.#index)
    throw parentUnknown(parentHash, this.#tried, [...this.#misfits.values(), ...others])
  }

  /** The values of a model that have the hash when it is taken in the order of the records; null where none have. */
  async #hash({ record, manifest, recipes, sums }: OpenedModel): Promise<Domain | null> {
    const names = this.#index.tensors.map(({ name }) => name)
    const engine = checkedEngine(this.#deps.engine, sums)
    const domains = likelyDomains(manifest.shards, record.hashes.float32 !== null)
    for (const domain of domains) {
      const hash = await hashValues(engine, recipes, names, domain, this.#signal)
      if (hash === this.#index.parentHash) return domain
      this.#tried.push(hash)
    }
    return null
  }

  async #fits({ record: { id, name }, recipes }: OpenedModel, domain: Domain): Promise<boolean> {
    try {
      await inTurns(fitSteps(recipes, this.#index, domain), this.#signal)
      return true
    } catch (error) {
      if (!(error instanceof CodecError)) throw error
      this.#misfits.set(id, { id, name, why: error.message })
      return false
    }
  }

  /** The newest match. Rejects `parent-ambiguous` where another one would give other dtypes or values. */
  #choose(matches: readonly ParentMatch[]): ParentMatch | null {
    const [newest = null] = matches.toSorted(newestFirst)
    const others = matches.filter(({ parent }) => newest && this.#differ(newest.parent, parent))
    if (!newest || others.length === 0) return newest
    const candidates = [newest, ...others].map(({ parent: { record } }) => {
      const { id, name, revision, dtypes } = record
      return { id, name, revision, dtypes }
    })
    const list = candidates.map(({ id, name, dtypes }) => `${id} (${name}: ${dtypes.join(', ')})`)
    throw new RegistryError(
      'parent-ambiguous',
      `expected one model with hash ${this.#index.parentHash}, found some that differ in dtypes: ${list.join('; ')}; name one of them as parent`,
      { details: { expected: this.#index.parentHash, candidates } },
    )
  }

  #differ(a: OpenedModel, b: OpenedModel): boolean {
    return this.#index.tensors.some(
      ({ name }) => a.recipes.get(name)!.dtype !== b.recipes.get(name)!.dtype,
    )
  }
}

/**
 * Tells whether a delta could have been made against these tensors.
 * @throws CodecError for one that is not there, has another shape or dtype, or is no floating point although the delta changes it: who wants
 * that names the parent
 */
function* fitSteps(parent: Recipes, index: RecordDelta, domain: Domain): Steps<void> {
  yield* applyLinkSteps(parent, { blob: '', index, domain })
  for (const { name, zero } of index.tensors) {
    const { dtype } = parent.get(name)!
    if (zero || isFloat(dtype)) continue
    const message = `the delta changes tensor ${JSON.stringify(name)}, which is ${dtype} and not floating point`
    throw new CodecError('delta', 'tuned-dtype', message)
  }
}

/** Why the newest models that have the hash of a delta's parent are not it where their names or shapes already tell. */
async function otherTensors({ catalog, models }: MatchDeps, claim: ParentClaim): Promise<Misfit[]> {
  const misfits: Misfit[] = []
  for (const record of await catalog.byHash(claim.parentHash, MAX_HASHED)) {
    const { id, name } = record
    const parent = await openCandidate(models, record)
    const lacking = parent && lackingTensor(claim, parent.recipes)
    if (lacking) misfits.push({ id, name, why: lacking.why })
  }
  return misfits
}

/** A lossless delta names its parent by identity; the reference's hash only helps to find it. */
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

/**
 * The models that have the hash of a delta's parent, newest first and of equal ones the newest alone; after them those that one which is lost
 * stood for. `unread` takes why some cannot be read.
 */
async function* candidatesOf(
  { catalog, models }: MatchDeps,
  query: CandidateQuery,
  unread: RegistryError[],
): AsyncGenerator<OpenedModel> {
  const seen = new Set<string>()
  const found = await catalog.candidates(query, MAX_OPENED)
  for (let records = found; records.length > 0; ) {
    let isLost = false
    for (const record of records) {
      seen.add(record.id)
      const model = await openCandidate(models, record, unread)
      if (model) yield model
      else isLost = true
    }
    const all = isLost ? await catalog.byHash(query.hash, MAX_OPENED) : []
    records = all.filter(({ id }) => !seen.has(id))
  }
}

function openCandidate(
  models: MatchDeps['models'],
  record: ModelRecord,
  unread?: RegistryError[],
): Promise<OpenedModel | null> {
  return passedOver(() => models.open(record), unread)
}

/**
 * What `work` gives with a model that nobody named; null for one that was deleted since it was found, or whose bytes are bad, of which `unread` is
 * told: others may match. Rejects with what is no fault of the model.
 */
async function passedOver<T>(
  work: () => Promise<T>,
  unread: RegistryError[] = [],
): Promise<T | null> {
  try {
    return await work()
  } catch (error) {
    const translated = translateErrors(error)
    if (UNREADABLE.includes(translated.code)) unread.push(translated)
    else if (translated.code !== 'parent-deleted') throw error
    return null
  }
}

function newestFirst(a: ParentMatch, b: ParentMatch): number {
  return a.parent.record.createdAt < b.parent.record.createdAt ? 1 : -1
}

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

/** Which of a model's kept hashes this is: stored values where both domains have it. */
function keptDomain({ hashes }: ModelRecord, hash: string): Domain | null {
  if (hash === hashes.stored || hash === hashes.shardOrder) return 'stored'
  return hash === hashes.float32 ? 'float32' : null
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

/** The first tensor of a delta that a model does not have in its shape; null if it has all. */
function lackingTensor({ tensors }: ParentClaim, parent: Recipes) {
  for (const { name, shape } of tensors) {
    const recipe = parent.get(name)
    if (recipe && sameShape(recipe.shape, shape)) continue
    const found = recipe ? `the model has it as [${recipe.shape}]` : 'the model has no such tensor'
    const why = `tensor ${JSON.stringify(name)}: the delta expects shape [${shape}], ${found}`
    return { tensor: name, why }
  }
  return null
}

function parentUnknown(
  expected: string,
  found: readonly string[],
  misfits: readonly Misfit[] = [],
): RegistryError {
  const looked = misfits.map(({ id, name, why }) => `; model ${id} (${name}): ${why}`)
  return new RegistryError(
    'parent-unknown',
    `expected a model with hash ${expected}; none that fits is among the newest ${MAX_OPENED} that could be it${looked.join('')}`,
    { details: { expected, found, candidates: misfits } },
  )
}
