import Sqlite from 'better-sqlite3'
import { RegistryError } from '../../errors.ts'
import {
  type BlobRecord,
  type CandidateQuery,
  type Catalog,
  type DamagedBlob,
  type FileRecord,
  MAX_LISTED_FILES,
  type ModelQuery,
  type ModelRecord,
  type ModelRecords,
  type Stats,
  type TokenRecord,
} from '../catalog.ts'
import { CATALOG_FILE } from '../file-names.ts'
import {
  type FilledRow,
  fillPage,
  readCursor,
  readTokenCursor,
  writeCursor,
  writeTokenCursor,
} from '../pages.ts'
import { digestFiles, digestRow, type ModelRow, toModel, toRow } from '../rows.ts'
import { isFull, isIoError, translateSqliteError } from './errors.ts'
import { walkUp } from './lineage-walk.ts'
import { migrate } from './migrate.ts'
import { ModelDamage } from './model-damage.ts'
import {
  prepareList,
  prepareStatements,
  SELECTORS,
  type Selector,
  type Statements,
} from './statements.ts'

/** Ids that a refusal names at most. */
const MAX_NAMED_CHILDREN = 1000
/** Rows of one hash that are looked at for the parent of a delta: they take about 10 ms. */
const MAX_SCANNED = 2000
/** Models of one hash that are given where the caller sets no limit. */
const MAX_BY_HASH = 1000
/** A place after that of every token: years are written with four digits. */
const LAST_TOKEN = { createdAt: '9999', id: '' }
/** Models of an earlier version that are given their digests in one transaction. */
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
      const sql = prepareStatements(db)
      sealModels(db, sql)
      return new SqliteCatalog(db, sql)
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

/** Gives the models that an earlier version inserted the digests of their rows as they are. */
function sealModels(db: Sqlite.Database, sql: Statements): void {
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

class SqliteCatalog implements Catalog {
  readonly #db: Sqlite.Database
  readonly #sql: Statements
  readonly #damage: ModelDamage
  /** Statements that list, by what they select by. */
  readonly #lists = new Map<string, ReturnType<typeof prepareList>>()
  /** The last write may lie whole in the log although it failed. */
  #inDoubt = false
  /** The last write found no room. */
  #isCrowded = false

  constructor(db: Sqlite.Database, sql: Statements) {
    this.#db = db
    this.#sql = sql
    this.#damage = new ModelDamage(sql)
  }

  insertModel(model: ModelRecord, blobs: readonly BlobRecord[]): Promise<void> {
    return this.#write(() => {
      const { parent, id, name, revision, files } = model
      if (parent !== null && !this.#sql.linkOf.get(parent)) {
        const message = `the parent ${parent} was deleted while its delta was published`
        throw new RegistryError('parent-deleted', message)
      }
      for (const { key, sha256, size } of blobs) this.#sql.insertBlob.run(key, sha256, size)
      this.#sql.insertModel.run(toRow(model))
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
    return this.#read(async () => {
      const [model = null] = await this.#toModels(this.#rowsOf(this.#sql.modelById.get(id)))
      return model
    })
  }

  hasModel(id: string): Promise<boolean> {
    return this.#read(() => this.#sql.linkOf.get(id) !== undefined)
  }

  files(id: string): Promise<FileRecord[]> {
    return this.#read(() => {
      const files = this.#sql.filesOf.all(id, -1)
      const row = this.#sql.modelById.get(id)
      if (row && row.files_digest !== digestFiles(files)) {
        const message = `the files of model ${id} are not those that were inserted`
        throw new RegistryError('damaged', message)
      }
      return files
    })
  }

  distrust(id: string): Promise<void> {
    return this.#write(() => void this.#sql.distrust.run(id))
  }

  resolve(name: string, revision: string): Promise<ModelRecord | null> {
    return this.#read(async () => {
      const [model = null] = await this.#toModels(
        this.#rowsOf(this.#sql.modelByRevision.get(name, revision)),
      )
      // Of a row that is not what was inserted, its manifest knows the name.
      const isOther = model && (model.name !== name || model.revision !== revision)
      if (!isOther || model.damaged?.file === CATALOG_FILE) return model
      const message = `revision ${name}@${revision} points at ${model.id}, a model of ${model.name}@${model.revision}`
      throw new RegistryError('catalog-failed', message)
    })
  }

  list({ limit, cursor, ...selected }: ModelQuery): Promise<ModelRecords> {
    return this.#read(async () => {
      const before = cursor === undefined ? Number.MAX_SAFE_INTEGER : readCursor(cursor)
      const selectors = SELECTORS.filter(selector => selected[selector] !== undefined)
      const values = selectors.map(selector => selected[selector]!)
      const rows = this.#listing(selectors).iterate(before, ...values, limit + 1)
      const { page, hasMore } = this.#fill(rows, limit)
      const next = hasMore ? writeCursor(page.at(-1)!.row.seq) : null
      return { models: await this.#toModels(page), next }
    })
  }

  lineage(
    id: string,
    { limit, cursor }: Pick<ModelQuery, 'limit' | 'cursor'>,
  ): Promise<ModelRecords> {
    return this.#read(async () => {
      const after = cursor === undefined ? 0 : readCursor(cursor)
      const ids = await walkUp(this.#sql, id, after)
      const { page, hasMore } = this.#fill(this.#rowsById(ids.reverse()), limit)
      const next = hasMore ? writeCursor(page.at(-1)!.row.seq) : null
      return { models: await this.#toModels(page), next }
    })
  }

  depth(id: string): Promise<number> {
    return this.#read(() => {
      let deltas = 0
      let link = this.#sql.linkOf.get(id)
      while (link?.kind === 'delta' && link.parent !== null) {
        deltas++
        link = this.#sql.linkOf.get(link.parent)
      }
      return deltas
    })
  }

  byHash(hash: string, limit = MAX_BY_HASH): Promise<ModelRecord[]> {
    return this.#all(() => this.#sql.modelsByHash.all({ hash, limit }))
  }

  candidates({ hash, named }: CandidateQuery, limit: number): Promise<ModelRecord[]> {
    const { signature = null, count = null } = named ?? {}
    const query = { hash, signature, count, scanned: MAX_SCANNED, limit }
    return this.#all(() => this.#sql.candidates.all(query))
  }

  bySignature(signature: string, limit: number): Promise<ModelRecord[]> {
    return this.#all(() => this.#sql.modelsBySignature.all(signature, limit))
  }

  deleteModel(id: string): Promise<void> {
    return this.#write(() => {
      if (!this.#sql.linkOf.get(id)) {
        throw new RegistryError('model-not-found', `there is no model ${id}`)
      }
      const { count: childrenTotal } = this.#sql.countDeltasOf.get(id)!
      if (childrenTotal > 0) {
        const children = this.#sql.deltasOf.all(id, MAX_NAMED_CHILDREN).map(child => child.id)
        const message = `${childrenTotal} models are deltas against ${id}`
        throw new RegistryError('has-children', message, { details: { children, childrenTotal } })
      }
      this.#sql.orphanBases.run(id)
      this.#sql.deleteModel.run(id)
    })
  }

  replaceManifest(id: string, { key, sha256, size }: BlobRecord): Promise<void> {
    return this.#write(() => {
      const row = this.#sql.modelById.get(id)!
      const { manifest: old } = row
      const before = this.#sql.blobByKey.get(old)!.size
      this.#sql.insertBlob.run(key, sha256, size)
      this.#sql.insertModelBlob.run(id, key)
      this.#sql.setManifest.run(key, size - before, id)
      this.#sql.deleteModelBlob.run(id, old)
      // What was not sound does not become so.
      if (row.digest !== digestRow(row)) return
      this.#sql.sealModel.run(row.files_digest, digestRow(this.#sql.modelById.get(id)!), id)
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
    return this.#read(
      () => this.#sql.blobByKey.get(key) !== undefined || this.#sql.isNamed.get({ key })!.is === 1,
    )
  }

  blobKeys(after: string, limit: number): Promise<string[]> {
    return this.#read(() => this.#sql.blobKeys.all(after, limit))
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

  modelsByManifest({
    after,
    before,
    limit,
  }: {
    after: string
    before: string
    limit: number
  }): Promise<ModelRecord[]> {
    return this.#all(() => this.#sql.modelsByManifest.all(after, before, limit))
  }

  modelsOf(key: string, limit: number): Promise<ModelRecord[]> {
    return this.#all(() => this.#sql.modelsOfBlob.all(key, limit))
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

  unreferencedBlobs({ after, limit }: { after: string; limit: number }): Promise<BlobRecord[]> {
    return this.#read(() => this.#sql.unreferencedBlobs.all(after, limit))
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

  listTokens({ limit, cursor }: Pick<ModelQuery, 'limit' | 'cursor'>): Promise<{
    tokens: TokenRecord[]
    next: string | null
  }> {
    return this.#read(() => {
      const { createdAt, id } = cursor === undefined ? LAST_TOKEN : readTokenCursor(cursor)
      const found = this.#sql.listTokens.all(createdAt, id, limit + 1)
      const tokens = found.slice(0, limit)
      return { tokens, next: found.length > limit ? writeTokenCursor(tokens.at(-1)!) : null }
    })
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

  async #read<T>(query: () => T | Promise<T>): Promise<T> {
    try {
      return await query()
    } catch (error) {
      throw translateSqliteError(error, 'the catalog')
    }
  }

  /** One transaction; nothing in it can await, so none is ever open across a turn of the event loop. */
  #write<T>(statements: () => T): Promise<T> {
    return this.#read(() => {
      if (this.#inDoubt) this.#emptyLog()
      else if (this.#isCrowded) this.#shortenLog()
      try {
        return this.#db.transaction(statements).immediate()
      } catch (error) {
        this.#inDoubt = isIoError(error)
        this.#isCrowded = isFull(error)
        throw error
      }
    })
  }

  /** Gives the room of the log to the disk, as far as that has room for what is new in the log: of a page that has changed often, the log has all versions. */
  #shortenLog(): void {
    this.#isCrowded = false
    try {
      this.#db.pragma('wal_checkpoint(TRUNCATE)')
    } catch (error) {
      if (!isFull(error)) throw error
    }
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

  #all(query: () => ModelRow[]): Promise<ModelRecord[]> {
    return this.#read(() => this.#toModels(query().map(row => this.#withFiles(row))))
  }

  #listing(selectors: readonly Selector[]): ReturnType<typeof prepareList> {
    const id = selectors.join()
    const known = this.#lists.get(id)
    if (known) return known
    const statement = prepareList(this.#db, selectors)
    this.#lists.set(id, statement)
    return statement
  }

  #rowsOf(row: ModelRow | undefined): FilledRow[] {
    return row ? [this.#withFiles(row)] : []
  }

  *#rowsById(ids: readonly string[]): Generator<ModelRow> {
    for (const id of ids) {
      const row = this.#sql.modelById.get(id)
      if (row) yield row
    }
  }

  #fill(rows: Iterable<ModelRow>, limit: number) {
    return fillPage(rows, limit, row => this.#withFiles(row).files)
  }

  /** A row with its files, where it has no more than a record shows. */
  #withFiles(row: ModelRow): FilledRow {
    const isShort = row.files_total <= MAX_LISTED_FILES
    return { row, files: isShort ? this.#sql.filesOf.all(row.id, MAX_LISTED_FILES + 1) : [] }
  }

  async #toModels(page: readonly FilledRow[]): Promise<ModelRecord[]> {
    const rows = page.map(({ row }) => row)
    const files = new Map(page.map(({ row, files }) => [row, files]))
    const damages = await this.#damage.of(rows, row => {
      const isShort = row.files_total <= MAX_LISTED_FILES
      return !isShort || digestFiles(files.get(row)!) === row.files_digest
    })
    return page.map(({ row, files }, i) => toModel(row, files, damages[i]!))
  }
}
