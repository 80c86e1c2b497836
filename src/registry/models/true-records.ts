import { CATALOG_FILE } from '../../catalog/file-names.ts'
import type { BlobRecord, ModelRecord } from '../../catalog/records.ts'
import { digestModel } from '../../catalog/rows.ts'
import { blobKey } from '../../storage/blob-key.ts'
import { type ManifestHead, toRecord } from './manifest.ts'

/** Whether a row is known to differ from what was inserted. Only its id may be used then. */
export function isRotten({ damaged }: Pick<ModelRecord, 'damaged'>): boolean {
  return damaged?.file === CATALOG_FILE
}

/** The key of a model's manifest, even if its row is bad. */
export function manifestKey(row: ModelRecord): string {
  return isRotten(row) ? blobKey('manifests', row.id) : row.manifest
}

/**
 * The record of a model from its manifest, which has a SHA-256 of itself. What is served comes from here, never from a row. The row adds what
 * changes: damage, and whether the parent of a base still exists.
 */
export function recordOf(
  row: ModelRecord,
  { model, blobs }: ManifestHead,
  manifest: Pick<BlobRecord, 'key' | 'size'>,
): ModelRecord {
  const hasLostParent = model.kind === 'base' && row.parent === null
  const parent = hasLostParent ? null : model.parent
  return { ...toRecord({ ...model, parent }, manifest, blobs), damaged: row.damaged }
}

/** Whether a row, with or without its files, agrees with the manifest. */
export function isTrue(row: ModelRecord, truth: ModelRecord): boolean {
  const hasFiles = row.files.length === row.filesTotal
  const files = hasFiles ? row.files : truth.files
  const isComplete = row.filesTotal === truth.files.length
  return (
    isComplete &&
    row.parent === truth.parent &&
    digestModel({ ...row, files }) === digestModel(truth)
  )
}
