import type { CandidateQuery, Catalog } from '../../catalog/catalog.ts'
import type { ModelRecord } from '../../catalog/records.ts'
import { type Domain, type Recipes, sameShape } from '../../codec/plan/recipes.ts'
import { RegistryError } from '../../errors.ts'
import type { Engine } from '../../workers/engine.ts'
import type { OpenedModel, OpenedModels } from '../models/opened-models.ts'
import { translateErrors } from '../translate.ts'

/** Most models that are hashed in the order of a delta's records when no kept hash matches (`docs/lineage.md`). */
export const MAX_HASHED = 8
/** Most models that are opened to see whether a delta fits. */
export const MAX_OPENED = 32
/** Error codes of a model whose bytes are missing or damaged: another model may match instead. */
const UNREADABLE: readonly string[] = ['damaged', 'blob-missing', 'blob-short', 'storage-failed']

/** What a search for a parent needs. */
export interface MatchDeps {
  readonly catalog: Catalog
  readonly models: Pick<OpenedModels, 'open'>
  readonly engine: Engine
}

/** What the header of a delta says about its parent. */
export interface ParentClaim {
  readonly parentHash: string
  readonly tensors: readonly { readonly name: string; readonly shape: readonly number[] }[]
}

/** The parent of a delta, and the values of it that the delta was made against. */
export interface ParentMatch {
  readonly parent: OpenedModel
  readonly domain: Domain
}

/** A model that a delta does not fit, and why. */
export interface Misfit {
  readonly id: string
  readonly name: string
  readonly why: string
}

/**
 * The models that have the hash of a delta's parent, newest first, and of equal models the newest alone. Where that one cannot be read, the
 * models equal to it follow. `unread` collects why models could not be read.
 */
export async function* candidatesOf(
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

/** Opens a model that the caller did not name, as {@link passedOver} does. */
export function openCandidate(
  models: MatchDeps['models'],
  record: ModelRecord,
  unread?: RegistryError[],
): Promise<OpenedModel | null> {
  return passedOver(() => models.open(record), unread)
}

/**
 * The result of `work` on a model that the caller did not name. Null for a model deleted since it was found, and for one whose bytes are bad:
 * `unread` collects why. Rejects with errors that are not the model's fault.
 */
export async function passedOver<T>(
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

/** Why the newest models that have the hash of a delta's parent are not it where their names or shapes already tell. */
export async function otherTensors(
  { catalog, models }: MatchDeps,
  claim: ParentClaim,
): Promise<Misfit[]> {
  const misfits: Misfit[] = []
  for (const record of await catalog.byHash(claim.parentHash, MAX_HASHED)) {
    const { id, name } = record
    const parent = await openCandidate(models, record)
    const lacking = parent && lackingTensor(claim, parent.recipes)
    if (lacking) misfits.push({ id, name, why: lacking.why })
  }
  return misfits
}

/** The first tensor of a delta that a model does not have in its shape; null if it has all. */
export function lackingTensor({ tensors }: ParentClaim, parent: Recipes) {
  for (const { name, shape } of tensors) {
    const recipe = parent.get(name)
    if (recipe && sameShape(recipe.shape, shape)) continue
    const found = recipe ? `the model has it as [${recipe.shape}]` : 'the model has no such tensor'
    const why = `tensor ${JSON.stringify(name)}: the delta expects shape [${shape}], ${found}`
    return { tensor: name, why }
  }
  return null
}

/** Which of a model's kept hashes this is: stored values where both domains have it. */
export function keptDomain({ hashes }: ModelRecord, hash: string): Domain | null {
  if (hash === hashes.stored || hash === hashes.shardOrder) return 'stored'
  return hash === hashes.float32 ? 'float32' : null
}

/** The refusal of a delta whose parent is not here: the hash expected, the hashes found, and why some models were not it. */
export function parentUnknown(
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
