import { randomBytes } from 'node:crypto'
import type { Catalog } from '../../catalog/catalog.ts'
import type { FileRecord, ModelRecord } from '../../catalog/records.ts'
import type { Dtype } from '../../codec/base/dtypes.ts'
import { LIMITS } from '../../codec/base/limits.ts'
import type { Strategy } from '../../codec/base/strategies.ts'
import type { Recipes } from '../../codec/plan/recipes.ts'
import { RegistryError } from '../../errors.ts'
import { blobKey } from '../../storage/blob-key.ts'
import type { BlobStore } from '../../storage/blob-store.ts'
import type { Engine } from '../../workers/engine.ts'
import type { Holds } from '../holds/holds.ts'
import { reconstructLayout } from '../models/layouts.ts'
import { type Manifest, toRecord } from '../models/manifest.ts'
import { writeManifest } from '../models/manifest-bytes.ts'
import type { OpenedModel, OpenedModels } from '../models/opened-models.ts'
import { signatureOf } from '../models/signature.ts'
import { resolveRef } from '../refs.ts'
import { hashFile, type ModelHashes } from './proofs.ts'
import type { Publication, PublicationDeps } from './publication.ts'

/** What the publishing functions share. */
export interface PublishDeps extends PublicationDeps {
  readonly catalog: Catalog
  readonly blobs: BlobStore
  readonly engine: Engine
  readonly models: OpenedModels
  readonly holds: Holds
  /** Most bytes of all safetensors files of a model that a `.wdelta` describes. */
  readonly maxModelBytes: number
}

/** Who publishes what under which name. */
export interface Naming {
  readonly name: string
  readonly revision: string
  readonly message: string
}

/** A proven model that only needs its manifest and its row. */
export interface ProvenModel extends ModelHashes, Pick<Manifest, 'shards' | 'delta'> {
  readonly kind: 'base' | 'delta'
  readonly strategy: Strategy
  readonly parent: string | null
  /** The parent if it is needed to read this one. */
  readonly builtOn: OpenedModel | null
  readonly recipes: Recipes
  /** Shards and side files; those of `delta.blob` and of the files are kept already. */
  readonly files: readonly FileRecord[]
  readonly error: ModelRecord['error']
}

/** Writes the manifest, inserts the row, and returns it: the last step of every publication. */
export async function insertProven(
  { engine, models, holds }: PublishDeps,
  publication: Publication,
  naming: Naming,
  proven: ProvenModel,
  signal: AbortSignal,
): Promise<ModelRecord> {
  const { recipes, shards, delta, files, identity } = proven
  const layout = await reconstructLayout(proven, recipes)
  const only = shards.length === 1 ? files.find(({ path }) => path === shards[0]!.path) : undefined
  const sha256 = only?.sha256 ?? (await hashFile(engine, recipes, layout, signal))
  const blobs = publication.kept.map(blob => ({ ...blob, ...publication.sums.get(blob.key)! }))
  // Locked from its time to its row, so that times and rows of a revision have the same order.
  await using _turn = await holds.locks.acquire(`${naming.name}@${naming.revision}`)
  signal.throwIfAborted()
  // Checked before the manifest is written: after a crash the next start would adopt it.
  await publication.authorize()
  const all = [...recipes.values()]
  const model = {
    ...naming,
    id: randomBytes(20).toString('hex'),
    kind: proven.kind,
    strategy: proven.strategy,
    parent: proven.parent,
    tensors: all.length,
    parameters: all.reduce((sum, { count }) => sum + count, 0),
    dtypes: [...new Set(all.map(({ dtype }): Dtype => dtype))].sort(),
    size: layout.size,
    sha256,
    hashes: proven.hashes,
    signature: await signatureOf(all),
    files,
    delta: delta?.blob ?? null,
    error: proven.error,
    createdAt: await holds.clock.next(),
  }
  const described = { model, identity, shards, delta, blobs }
  const pieces = await writeManifest(described)
  const manifestBytes = pieces.reduce((sum, { length }) => sum + length, 0)
  await models.checkFits({ manifest: described, manifestBytes }, recipes, proven.builtOn)
  const manifest = await publication.keepBytes(blobKey('manifests', model.id), pieces, signal)
  signal.throwIfAborted()
  const record = toRecord(model, manifest, blobs)
  await publication.commit(record)
  return record
}

/** The parent that a caller names. Rejects `parent-unknown`. */
export async function findParent(
  { catalog }: Pick<PublishDeps, 'catalog'>,
  ref: string,
): Promise<ModelRecord> {
  const record = await resolveRef(catalog, ref)
  if (record) return record
  throw new RegistryError('parent-unknown', `expected a model as parent, found none for ${ref}`)
}

/** Opens a parent, whose bytes stay until the publication ends. Rejects `parent-deleted` if it was deleted since it was found. */
export async function openParent(
  { models }: Pick<PublishDeps, 'models'>,
  publication: Publication,
  record: ModelRecord,
): Promise<OpenedModel> {
  try {
    const parent = await models.open(record)
    await publication.hold(parent)
    return parent
  } catch (error) {
    if ((error as RegistryError).code !== 'model-not-found') throw error
    const message = `the parent ${record.id} was deleted while its delta was published`
    throw new RegistryError('parent-deleted', message, { cause: error })
  }
}

/** Rejects `chain-too-deep` if a delta against `parent` would pass the longest lineage allowed. */
export async function checkDepth(
  { catalog }: Pick<PublishDeps, 'catalog'>,
  parent: OpenedModel,
): Promise<void> {
  const deltas = await catalog.depth(parent.record.id)
  if (deltas < LIMITS.chainDepth) return
  throw new RegistryError(
    'chain-too-deep',
    `expected at most ${LIMITS.chainDepth} deltas in a lineage, the parent already has ${deltas}`,
  )
}
