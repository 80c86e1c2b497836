import { RegistryError } from '../../errors.ts'
import type { CatalogBlobs } from '../catalog.ts'
import type { Connection } from './connection.ts'

/** The blobs of a catalog. */
export function blobMethods(connection: Connection): CatalogBlobs {
  const { sql } = connection
  return {
    findBlob: (sha256, size) => connection.read(() => sql.blobByContent.get(sha256, size) ?? null),

    hasBlob: key =>
      connection.read(
        () => sql.blobByKey.get(key) !== undefined || sql.isNamed.get({ key })!.is === 1,
      ),

    blobKeys: (after, limit) => connection.read(() => sql.blobKeys.all(after, limit)),

    blob: key =>
      connection.read(() => {
        const blob = sql.blobByKey.get(key)
        if (blob) return blob
        throw new RegistryError('blob-missing', `the catalog knows no blob ${key}`)
      }),

    copyOf: key =>
      connection.read(() => {
        const blob = sql.blobByKey.get(key)
        return (blob && sql.blobByContent.get(blob.sha256, blob.size)) ?? null
      }),

    setBlobDamage: (key, damage) =>
      connection.write(() => {
        if (damage === null) sql.mendBlob.run(key)
        // The damage of a blob that the catalog has forgotten meanwhile does not matter.
        else if (sql.blobByKey.get(key)) sql.damageBlob.run(key, damage.offset, damage.at)
      }),

    damagedBlobs: () => connection.read(() => sql.damagedBlobs.all()),

    unreferencedBlobs: ({ after, limit }) =>
      connection.read(() => sql.unreferencedBlobs.all(after, limit)),

    forgetBlobs: keys =>
      connection.write(() => keys.filter(key => sql.forgetBlob.run(key, key).changes > 0)),
  }
}
