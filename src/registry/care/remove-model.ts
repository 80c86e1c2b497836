import type { ModelRecord } from '../../catalog/records.ts'
import { deleteBlobs } from '../holds/delete-blobs.ts'
import { manifestKey } from '../models/true-records.ts'
import { type DeletionDeps, deleteModel } from './tombstones.ts'

/** Deletes a model, and its manifest at once: a catalog that is made again from the store must not find it. */
export async function removeModel(stores: DeletionDeps, record: ModelRecord): Promise<void> {
  const { catalog, lease } = stores
  const manifest = manifestKey(record)
  await lease.confirm()
  await deleteModel(stores, record)
  // What fails here, the sweep does.
  await deleteBlobs(stores, [manifest])
    .then(() => catalog.forgetBlobs([manifest]))
    .catch(() => {})
}
