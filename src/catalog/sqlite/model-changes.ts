import { RegistryError } from '../../errors.ts'
import type { BlobRecord, ModelRecord } from '../records.ts'
import { digestRow, toRow } from '../rows.ts'
import type { Statements } from './statements.ts'

/** Most ids that a refusal names. */
const MAX_NAMED_CHILDREN = 1000

/** As `Catalog.insertModel`, in an open transaction. */
export function insertModel(
  sql: Statements,
  model: ModelRecord,
  blobs: readonly BlobRecord[],
): void {
  const { parent, id, name, revision, files } = model
  if (parent !== null && !sql.linkOf.get(parent)) {
    const message = `the parent ${parent} was deleted while its delta was published`
    throw new RegistryError('parent-deleted', message)
  }
  for (const { key, sha256, size } of blobs) sql.insertBlob.run(key, sha256, size)
  sql.insertModel.run(toRow(model))
  files.forEach((file, position) => {
    const { path, size, sha256, blob } = file
    sql.insertFile.run(id, position, path, size, sha256, blob)
  })
  for (const { key } of blobs) sql.insertModelBlob.run(id, key)
  sql.moveRevision.run(name, revision, id)
}

/** As `Catalog.deleteModel`, in an open transaction. */
export function deleteModel(sql: Statements, id: string): void {
  if (!sql.linkOf.get(id)) {
    throw new RegistryError('model-not-found', `there is no model ${id}`)
  }
  const { count: childrenTotal } = sql.countDeltasOf.get(id)!
  if (childrenTotal > 0) {
    const children = sql.deltasOf.all(id, MAX_NAMED_CHILDREN).map(child => child.id)
    const message = `${childrenTotal} models are deltas against ${id}`
    throw new RegistryError('has-children', message, { details: { children, childrenTotal } })
  }
  sql.orphanBases.run(id)
  sql.deleteModel.run(id)
}

/** As `Catalog.replaceManifest`, in an open transaction. */
export function replaceManifest(
  sql: Statements,
  id: string,
  { key, sha256, size }: BlobRecord,
): void {
  const row = sql.modelById.get(id)!
  const { manifest: old } = row
  const before = sql.blobByKey.get(old)!.size
  sql.insertBlob.run(key, sha256, size)
  sql.insertModelBlob.run(id, key)
  sql.setManifest.run(key, size - before, id)
  sql.deleteModelBlob.run(id, old)
  // A damaged row must not get a digest that fits it.
  if (row.digest !== digestRow(row)) return
  sql.sealModel.run(row.files_digest, digestRow(sql.modelById.get(id)!), id)
}
