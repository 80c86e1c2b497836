import Sqlite from 'better-sqlite3'
import { RegistryError } from '../errors.ts'
import type {
  BlobRecord,
  Catalog,
  Damage,
  DamagedBlob,
  ModelQuery,
  ModelRecord,
  Stats,
  TokenRecord,
} from './catalog.ts'
import { migrate } from './migrate.ts'
import { type FileRow, fromModel, type ModelRow, toModel } from './rows.ts'
import { isIoError, translateSqliteError } from './sqlite-errors.ts'
import { prepareStatements, type Statements } from './statements.ts'

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
    const db = new Sqlite(path, { timeout: 200 })
    try {
      // Exclusive from the first write on: two processes on one folder would sweep each other's blobs.
      db.pragma('locking_mode = EXCLUSIVE')
      db.pragma('journal_mode = WAL')
      // WAL sets NORMAL by itself, which loses the last commits on a power cut.
      db.pragma('synchronous = FULL')
      db.pragma('foreign_keys = ON')
      migrate(db)
      if (mostBytes !== undefined) capSize(db, mostBytes)
      return new SqliteCatalog(db)
    } catch (error) {
      db.close()
      throw error
    }
  } catch (error) {
    throw translateSqliteError(error, path)
  }
}

function capSize(db: Sqlite.Database, bytes: number): void {
  const page = db.pragma('page_size', { simple: true }) as number
  db.pragma(`max_page_count = ${Math.floor(bytes / page)}`)
}

class SqliteCatalog implements Catalog {
  readonly #db: Sqlite.Database
  readonly #sql: Statements
  /** The last write may lie whole in the log although it failed. */
  #inDoubt = false

  constructor(db: Sqlite.Database) {
    this.#db = db
    this.#sql = prepareStatements(db)
  }

  insertModel(model: ModelRecord, blobs: readonly BlobRecord[]): Promise<void> {
    return this.#write(() => {
      const { parent, id, name, revision, files } = model
      if (parent !== null && !this.#sql.modelById.get(parent)) {
        const message = `the parent ${parent} was deleted while its delta was published`
        throw new RegistryError('parent-deleted', message)
      }
      for (const { key, sha256, size } of blobs) this.#sql.insertBlob.run(key, sha256, size)
      this.#sql.insertModel.run(fromModel(model))
      files.forEach((file, position) => {
        const { path, size, sha256, blob } = file
        this.#sql.insertFile.run(id, position, path, size, sha256, blob)
      })
      for (const { key } of blobs) this.#sql.insertModelBlob.run(id, key)
      this.#sql.moveRevision.run(name, revision, id)
    })
  }

  identity(): Promise<string> {
    return this.#read(() => this.#sql.identity.get()!.id)
  }

  setIdentity(identity: string): Promise<void> {
    return this.#write(() => void this.#sql.setIdentity.run(identity))
  }

  model(id: string): Promise<ModelRecord | null> {
    return this.#read(() => this.#oneModel(this.#sql.modelById.get(id)))
  }

  resolve(name: string, revision: string): Promise<ModelRecord | null> {
    return this.#read(() => this.#oneModel(this.#sql.modelByRevision.get(name, revision)))
  }

  list(query: ModelQuery): Promise<{ models: ModelRecord[]; next: string | null }> {
    return this.#read(() => {
      const { name = null, revision = null, parent = null, limit, cursor } = query
      const before = cursor === undefined ? Number.MAX_SAFE_INTEGER : readCursor(cursor)
      const rows = this.#sql.listModels.all({ name, revision, parent, before, limit: limit + 1 })
      const page = rows.slice(0, limit)
      const next = rows.length > limit ? writeCursor(page.at(-1)!.seq) : null
      return { models: page.map(row => this.#toModel(row)), next }
    })
  }

  children(id: string): Promise<ModelRecord[]> {
    return this.#read(() => this.#sql.childrenOf.all(id).map(row => this.#toModel(row)))
  }

  lineage(id: string): Promise<ModelRecord[]> {
    return this.#read(() => this.#sql.lineageOf.all(id).map(row => this.#toModel(row)))
  }

  byHash(hash: string): Promise<ModelRecord[]> {
    return this.#read(() =>
      this.#sql.modelsByHash.all(hash, hash, hash).map(row => this.#toModel(row)),
    )
  }

  bySignature(signature: string, limit: number): Promise<ModelRecord[]> {
    return this.#read(() =>
      this.#sql.modelsBySignature.all(signature, limit).map(row => this.#toModel(row)),
    )
  }

  deleteModel(id: string): Promise<void> {
    return this.#write(() => {
      if (!this.#sql.modelById.get(id)) {
        throw new RegistryError('model-not-found', `there is no model ${id}`)
      }
      const children = this.#sql.deltasOf.all(id).map(child => child.id)
      if (children.length > 0) {
        const message = `${children.length} models are deltas against ${id}`
        throw new RegistryError('has-children', message, { details: { children } })
      }
      this.#sql.orphanBases.run(id)
      this.#sql.deleteModel.run(id)
    })
  }

  setDamaged(id: string, damaged: Damage | null): Promise<void> {
    return this.#write(() => {
      this.#sql.setDamaged.run(damaged === null ? null : JSON.stringify(damaged), id)
    })
  }

  replaceManifest(id: string, { key, sha256, size }: BlobRecord): Promise<void> {
    return this.#write(() => {
      const old = this.#sql.modelById.get(id)!.manifest
      const before = this.#sql.blobByKey.get(old)!.size
      this.#sql.insertBlob.run(key, sha256, size)
      this.#sql.insertModelBlob.run(id, key)
      this.#sql.setManifest.run(key, size - before, id)
      this.#sql.deleteModelBlob.run(id, old)
    })
  }

  dropRevision(name: string, revision: string, before: string): Promise<void> {
    return this.#write(() => void this.#sql.dropRevision.run(name, revision, before))
  }

  stats(): Promise<Stats> {
    return this.#read(() => this.#sql.stats.get()!)
  }

  findBlob(sha256: string, size: number): Promise<BlobRecord | null> {
    return this.#read(() => this.#sql.blobByContent.get(sha256, size) ?? null)
  }

  hasBlob(key: string): Promise<boolean> {
    return this.#read(() => this.#sql.blobByKey.get(key) !== undefined)
  }

  blob(key: string): Promise<BlobRecord> {
    return this.#read(() => {
      const blob = this.#sql.blobByKey.get(key)
      if (blob) return blob
      throw new RegistryError('blob-missing', `the catalog knows no blob ${key}`)
    })
  }

  copyOf(key: string): Promise<BlobRecord | null> {
    return this.#read(() => {
      const blob = this.#sql.blobByKey.get(key)
      return (blob && this.#sql.blobByContent.get(blob.sha256, blob.size)) ?? null
    })
  }

  modelsOf(key: string): Promise<ModelRecord[]> {
    return this.#read(() => this.#sql.modelsOfBlob.all(key).map(row => this.#toModel(row)))
  }

  setBlobDamage(key: string, damage: { offset: number; at: string } | null): Promise<void> {
    return this.#write(() => {
      if (damage === null) this.#sql.mendBlob.run(key)
      // What the catalog has forgotten meanwhile has no damage that matters.
      else if (this.#sql.blobByKey.get(key)) {
        this.#sql.damageBlob.run(key, damage.offset, damage.at)
      }
    })
  }

  damagedBlobs(): Promise<DamagedBlob[]> {
    return this.#read(() => this.#sql.damagedBlobs.all())
  }

  unreferencedBlobs(): Promise<BlobRecord[]> {
    return this.#read(() => this.#sql.unreferencedBlobs.all())
  }

  forgetBlobs(keys: readonly string[]): Promise<string[]> {
    return this.#write(() => keys.filter(key => this.#sql.forgetBlob.run(key, key).changes > 0))
  }

  insertToken(token: TokenRecord): Promise<void> {
    return this.#write(() => void this.#sql.insertToken.run(token))
  }

  findToken(id: string): Promise<TokenRecord | null> {
    return this.#read(() => this.#sql.tokenById.get(id) ?? null)
  }

  listTokens(): Promise<TokenRecord[]> {
    return this.#read(() => this.#sql.listTokens.all())
  }

  deleteToken(id: string): Promise<void> {
    return this.#write(() => {
      if (this.#sql.deleteToken.run(id).changes > 0) return
      throw new RegistryError('token-not-found', `there is no token ${id}`)
    })
  }

  async backup(path: string): Promise<void> {
    try {
      await this.#db.backup(path)
    } catch (error) {
      throw translateSqliteError(error, path)
    }
  }

  async close(): Promise<void> {
    if (!this.#db.open) return
    this.#db.pragma('wal_checkpoint(TRUNCATE)')
    this.#db.close()
  }

  async #read<T>(query: () => T): Promise<T> {
    try {
      return query()
    } catch (error) {
      throw translateSqliteError(error, 'the catalog')
    }
  }

  /** One transaction; nothing in it can await, so none is ever open across a turn of the event loop. */
  #write<T>(statements: () => T): Promise<T> {
    return this.#read(() => {
      if (this.#inDoubt) this.#emptyLog()
      try {
        return this.#db.transaction(statements).immediate()
      } catch (error) {
        this.#inDoubt = isIoError(error)
        throw error
      }
    })
  }

  /**
   * Moves what is committed from the log to the database, and cuts the log off. A transaction that was written and not synced is rolled back
   * in memory only: after a crash, SQLite would find it whole in the log and take it for committed.
   */
  #emptyLog(): void {
    const [{ busy }] = this.#db.pragma('wal_checkpoint(TRUNCATE)') as [{ busy: number }]
    if (busy) throw new RegistryError('catalog-failed', 'the log of the catalog cannot be emptied')
    // A write that changes nothing would not be synced, and neither would the cut.
    this.#db.pragma(`user_version = ${this.#db.pragma('user_version', { simple: true })}`)
    this.#inDoubt = false
  }

  #oneModel(row: ModelRow | undefined): ModelRecord | null {
    return row ? this.#toModel(row) : null
  }

  #toModel(row: ModelRow): ModelRecord {
    return toModel(row, this.#sql.filesOf.all(row.id) as FileRow[])
  }
}

function writeCursor(seq: number): string {
  return Buffer.from(`seq:${seq}`).toString('base64url')
}

function readCursor(cursor: string): number {
  const match = /^seq:(\d{1,15})$/.exec(Buffer.from(cursor, 'base64url').toString())
  if (match) return Number(match[1])
  throw new RegistryError(
    'bad-request',
    `cursor: expected the next of a page, got ${JSON.stringify(cursor.slice(0, 80))}`,
  )
}
