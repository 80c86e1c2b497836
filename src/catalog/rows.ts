import type { FileRecord, ModelRecord } from './catalog.ts'

/** A row of `models`; JSON columns as text. */
export interface ModelRow {
  readonly seq: number
  readonly id: string
  readonly name: string
  readonly revision: string
  readonly kind: ModelRecord['kind']
  readonly strategy: ModelRecord['strategy']
  readonly parent: string | null
  readonly tensors: number
  readonly parameters: number
  readonly dtypes: string
  readonly size: number
  readonly sha256: string
  readonly stored_size: number
  readonly hash_stored: string
  readonly hash_shard_order: string
  readonly hash_float32: string | null
  readonly signature: string
  readonly manifest: string
  readonly delta: string | null
  readonly error: string | null
  readonly damaged: string | null
  readonly message: string
  readonly created_at: string
}

export type FileRow = FileRecord

/** A model from its row and those of its files. */
export function toModel(row: ModelRow, files: readonly FileRow[]): ModelRecord {
  const { id, name, revision, kind, strategy, parent, tensors, parameters, size, sha256 } = row
  return {
    id,
    name,
    revision,
    kind,
    strategy,
    parent,
    tensors,
    parameters,
    dtypes: JSON.parse(row.dtypes),
    size,
    sha256,
    storedSize: row.stored_size,
    hashes: {
      stored: row.hash_stored,
      shardOrder: row.hash_shard_order,
      float32: row.hash_float32,
    },
    signature: row.signature,
    files,
    manifest: row.manifest,
    delta: row.delta,
    error: row.error === null ? null : JSON.parse(row.error),
    damaged: row.damaged === null ? null : JSON.parse(row.damaged),
    message: row.message,
    createdAt: row.created_at,
  }
}

/** The named parameters that insert a model. */
export function fromModel(model: ModelRecord): Record<string, string | number | null> {
  const { hashes, dtypes, error, damaged, files: _files, ...plain } = model
  return {
    ...plain,
    dtypes: JSON.stringify(dtypes),
    hashStored: hashes.stored,
    hashShardOrder: hashes.shardOrder,
    hashFloat32: hashes.float32,
    error: error === null ? null : JSON.stringify(error),
    damaged: damaged === null ? null : JSON.stringify(damaged),
  }
}
