import { isFloat } from '../../codec/base/dtypes.ts'
import { CodecError } from '../../codec/base/errors.ts'
import type { Steps } from '../../codec/base/steps.ts'
import { likelyDomains } from '../../codec/plan/parent-hash.ts'
import { applyLinkSteps, type Domain, type Recipes } from '../../codec/plan/recipes.ts'
import type { RecordDelta } from '../../codec/wdelta/delta-index.ts'
import { RegistryError } from '../../errors.ts'
import { inTurns } from '../../workers/turns.ts'
import { checkedEngine } from '../models/checked-reads.ts'
import type { OpenedModel } from '../models/opened-models.ts'
import { signatureOf } from '../models/signature.ts'
import {
  candidatesOf,
  keptDomain,
  MAX_HASHED,
  MAX_OPENED,
  type MatchDeps,
  type Misfit,
  openCandidate,
  otherTensors,
  type ParentMatch,
  parentUnknown,
  passedOver,
} from './candidates.ts'
import { hashValues } from './proofs.ts'

/** Searches the catalog for the parent of a record delta: the newest model that has the hash and that the delta fits. */
export class ParentSearch {
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
 * Checks that a delta could have been made against these tensors.
 * @throws CodecError for a tensor that is missing, has another shape or dtype, or is not floating point although the delta changes it: such a
 * parent has to be named
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

function newestFirst(a: ParentMatch, b: ParentMatch): number {
  return a.parent.record.createdAt < b.parent.record.createdAt ? 1 : -1
}
