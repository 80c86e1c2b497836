import { hash } from 'node:crypto'
import type { FileRecord } from './catalog.ts'
import type { ModelRow } from './rows.ts'

/** SHA-256, hex, over the files of a model in their order. */
export function digestFiles(files: readonly FileRecord[]): string {
  return sha256(files.map(({ path, size, sha256, blob }) => [path, size, sha256, blob]))
}

/**
 * SHA-256, hex, over the columns of a model that never change by themselves. Its place in the order is not among them, nor its parent, which goes
 * when a base loses it.
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

function sha256(values: readonly unknown[]): string {
  // What is no Unicode comes back from the database in another way.
  return hash('sha256', JSON.stringify(values, wellFormed), 'hex')
}

function wellFormed(_key: string, value: unknown): unknown {
  return typeof value === 'string' ? value.toWellFormed() : value
}
