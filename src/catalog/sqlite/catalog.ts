import Sqlite, { type Database } from 'better-sqlite3'
import type { Catalog } from '../catalog.ts'
import { digestFiles, digestRow } from '../rows.ts'
import { blobMethods } from './blobs.ts'
import { Connection } from './connection.ts'
import { translateSqliteError } from './errors.ts'
import { migrate } from './migrate.ts'
import { modelMethods } from './models.ts'
import { prepareStatements, type Statements } from './statements.ts'
import { tokenMethods } from './tokens.ts'

/** Milliseconds to wait for another process that has the file, which is about to end. */
const BUSY_MS = 200
/** Models of an earlier version that get their digests in one transaction. */
const SEALED_AT_ONCE = 1000

/**
 * A catalog in one SQLite file, used by this process alone. `mostBytes` caps the file.
 * Rejects with RegistryError `catalog-failed` if the file cannot be opened, is no database, is not a catalog, belongs to a newer build, or is in use
 * by another process; `storage-full` on a full disk.
 */
export async function openSqliteCatalog(
  path: string,
  { mostBytes }: { mostBytes?: number } = {},
): Promise<Catalog> {
  try {
    const db = new Sqlite(path, { timeout: BUSY_MS })
    try {
      // Exclusive from the first write on: two processes on one folder would sweep each other's blobs.
      db.pragma('locking_mode = EXCLUSIVE')
      db.pragma('journal_mode = WAL')
      // WAL sets NORMAL by itself, which loses the last commits on a power cut.
      db.pragma('synchronous = FULL')
      db.pragma('foreign_keys = ON')
      migrate(db)
      if (mostBytes !== undefined) capSize(db, mostBytes)
      const sql = prepareStatements(db)
      sealModels(db, sql)
      return catalogOver(new Connection(db, sql))
    } catch (error) {
      db.close()
      throw error
    }
  } catch (error) {
    throw translateSqliteError(error, path)
  }
}

function catalogOver(connection: Connection): Catalog {
  const { sql } = connection
  return {
    ...modelMethods(connection),
    ...blobMethods(connection),
    ...tokenMethods(connection),
    identity: () => connection.read(() => sql.identity.get()!.id),
    setIdentity: identity => connection.write(() => void sql.setIdentity.run(identity)),
    stats: () => connection.read(() => sql.stats.get()!),
    backup: path => connection.backup(path),
    close: () => connection.close(),
  }
}

function capSize(db: Database, bytes: number): void {
  const page = db.pragma('page_size', { simple: true }) as number
  db.pragma(`max_page_count = ${Math.floor(bytes / page)}`)
}

/** Gives the models that an earlier version inserted the digests of their rows as they are. */
function sealModels(db: Database, sql: Statements): void {
  const sealSome = db.transaction(() => {
    const rows = sql.unsealedModels.all(SEALED_AT_ONCE)
    for (const row of rows) {
      const files_digest = digestFiles(sql.filesOf.all(row.id, -1))
      sql.sealModel.run(files_digest, digestRow({ ...row, files_digest }), row.id)
    }
    return rows.length
  })
  while (sealSome.immediate() > 0);
}
