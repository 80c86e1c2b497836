import type { BlobRecord, ErrorFigures, ModelRecord } from '../../catalog/records.ts'
import type { BlockSums } from '../../codec/base/block-sums.ts'
import type { BaseShard, Domain } from '../../codec/plan/recipes.ts'
import type { Shard } from '../../codec/safetensors/layout.ts'
import { inPathOrder } from '../../codec/safetensors/model-folder.ts'
import type { DeltaIndex, FrameDelta } from '../../codec/wdelta/delta-index.ts'
import { RegistryError } from '../../errors.ts'

/** A safetensors file of a model; `blob` is null where its bytes are reconstructed. */
export interface ManifestShard extends Shard {
  readonly blob: string | null
}

export interface ManifestDelta {
  /** Key of the `.wdelta` blob. */
  readonly blob: string
  readonly domain: Domain
  readonly index: DeltaIndex
  /** Error figures by tensor; null where only the `.wdelta` was seen. */
  readonly errors: ReadonlyMap<string, ErrorFigures> | null
}

/** A blob that a model refers to, and what its bytes are checked against. */
export interface ManifestBlob extends BlobRecord {
  readonly sums: BigUint64Array
}

/** A row of the catalog without what is not known when a model is published, or follows from the rest. */
export type PublishedModel = Omit<ModelRecord, 'manifest' | 'storedSize' | 'damaged' | 'filesTotal'>

/**
 * What a plan needs of one model beside its blobs, and all that the catalog would need to know it again: a blob of its own, so that the
 * catalog stays small and can be made again.
 */
export interface Manifest {
  readonly model: PublishedModel
  /** Of the tensors, whatever the shards: see `codec/FORMAT.md`. Null where it was not taken when the model was published. */
  readonly identity: string | null
  /** In publication order, by path. */
  readonly shards: readonly ManifestShard[]
  /** Null for a base. */
  readonly delta: ManifestDelta | null
  /** All that the model refers to but its manifest. */
  readonly blobs: readonly ManifestBlob[]
}

/** What a manifest says of a model, and of the blobs that it refers to. */
export type ManifestHead = Pick<Manifest, 'model' | 'blobs'>

/** The row of a model whose manifest is stored. */
export function toRecord(
  model: PublishedModel,
  manifest: Pick<BlobRecord, 'key' | 'size'>,
  blobs: readonly BlobRecord[],
): ModelRecord {
  const storedSize = blobs.reduce((sum, { size }) => sum + size, manifest.size)
  const filesTotal = model.files.length
  return { ...model, filesTotal, manifest: manifest.key, storedSize, damaged: null }
}

/** The shards that a frame delta gives back, in path order. */
export function frameDeltaShards({ shards }: FrameDelta): ManifestShard[] {
  return inPathOrder(shards).map(({ path, layout }) => ({ path, layout, blob: null }))
}

/** The shards of a base, which all have a blob. */
export function storedShards({ shards }: Pick<Manifest, 'shards'>): BaseShard[] {
  return shards.map(({ path, layout, blob }) => {
    if (blob === null) throw new RegistryError('damaged', `shard ${path} has no blob`)
    return { path, layout, blob }
  })
}

/** The blobs of a manifest by key. */
export function sumsByKey(blobs: readonly ManifestBlob[]): Map<string, BlockSums> {
  return new Map(blobs.map(({ key, size, sums }) => [key, { size, sums }]))
}
