import { hash } from 'node:crypto'
import type { Damage, FileRecord, ModelRecord } from './records.ts'

/** A row of `models`; JSON columns are text. `seq` is its place in the order of insertion. */
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
  readonly message: string
  readonly created_at: string
  readonly files_total: number
  readonly files_size: number
  /** Both are null in a row that an earlier version inserted, until this version opens the catalog. */
  readonly files_digest: string | null
  readonly digest: string | null
}

/** A model from its row, its files and its damage. A row that has changed since it was inserted may give a record that makes no sense. */
export function toModel(
  row: ModelRow,
  files: readonly FileRecord[],
  damaged: Damage | null,
): ModelRecord {
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
    dtypes: parseColumn(row.dtypes) ?? [],
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
    filesTotal: row.files_total,
    manifest: row.manifest,
    delta: row.delta,
    error: row.error === null ? null : parseColumn(row.error),
    damaged,
    message: row.message,
    createdAt: row.created_at,
  }
}

/** The row of a new model, without its `seq`. */
export function toRow(model: ModelRecord): Omit<ModelRow, 'seq'> {
  const { hashes, files, dtypes, error } = model
  const row = {
    id: model.id,
    name: model.name,
    revision: model.revision,
    kind: model.kind,
    strategy: model.strategy,
    parent: model.parent,
    tensors: model.tensors,
    parameters: model.parameters,
    dtypes: JSON.stringify(dtypes),
    size: model.size,
    sha256: model.sha256,
    stored_size: model.storedSize,
    hash_stored: hashes.stored,
    hash_shard_order: hashes.shardOrder,
    hash_float32: hashes.float32,
    signature: model.signature,
    manifest: model.manifest,
    delta: model.delta,
    error: error === null ? null : JSON.stringify(error),
    message: model.message,
    created_at: model.createdAt,
    files_total: files.length,
    files_size: files.reduce((sum, { size }) => sum + size, 0),
    files_digest: digestFiles(files),
  }
  return { ...row, digest: digestRow(row) }
}

/** SHA-256, hex, over a model with all of its files: equal for records that differ only in their parent and their damage. */
export function digestModel(model: ModelRecord): string {
  return toRow(model).digest!
}

/** Null for text that is not JSON, as in a damaged row. */
function parseColumn<T>(text: string): T | null {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

/** SHA-256, hex, over the files of a model in their order. */
export function digestFiles(files: readonly FileRecord[]): string {
  return sha256(files.map(({ path, size, sha256, blob }) => [path, size, sha256, blob]))
}

/**
 * SHA-256, hex, over the columns of a model that never change. Its `seq` is not among them, nor its parent, which becomes null when that of a base
 * is deleted.
 */
export function digestRow(row: Omit<ModelRow, 'seq' | 'parent' | 'digest'>): string {
  return sha256([
    row.id,
    row.name,
    row.revision,
    row.kind,
    row.strategy,
    row.tensors,
    row.parameters,
    row.dtypes,
    row.size,
    row.sha256,
    row.stored_size,
    row.hash_stored,
    row.hash_shard_order,
    row.hash_float32,
    row.signature,
    row.manifest,
    row.delta,
    row.error,
    row.message,
    row.created_at,
    row.files_total,
    row.files_size,
    row.files_digest,
  ])
}

function wellFormed(_key: string, value: unknown): unknown {
  return typeof value === 'string' ? value.toWellFormed() : value
}

function sha256(values: readonly unknown[]): string {
  // The database does not give back lone surrogates as they were.
  return hash('sha256', JSON.stringify(values, wellFormed), 'hex')
}
