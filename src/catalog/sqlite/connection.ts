import type { Database } from 'better-sqlite3'
import { RegistryError } from '../../errors.ts'
import { isFull, isIoError, translateSqliteError } from './errors.ts'
import { prepareList, type Selector, type Statements } from './statements.ts'

type List = ReturnType<typeof prepareList>

/** An open database with its statements. Reads it, and writes it in transactions that survive a crash or leave no trace. */
export class Connection {
  readonly sql: Statements
  readonly #db: Database
  /** Statements that list models, by what they select by. */
  readonly #lists = new Map<string, List>()
  /** The last write failed, but may be in the log as a whole. */
  #isInDoubt = false
  /** The last write found no room. */
  #isCrowded = false

  constructor(db: Database, sql: Statements) {
    this.#db = db
    this.sql = sql
  }

  /** Runs a query. Rejects with RegistryError. */
  async read<T>(query: () => T | Promise<T>): Promise<T> {
    try {
      return await query()
    } catch (error) {
      throw translateSqliteError(error, 'the catalog')
    }
  }

  /** Runs statements in one transaction, all in one turn of the event loop, as they cannot await. Rejects as {@link read}. */
  write<T>(statements: () => T): Promise<T> {
    return this.read(() => {
      if (this.#isInDoubt) this.#emptyLog()
      else if (this.#isCrowded) this.#shortenLog()
      try {
        return this.#db.transaction(statements).immediate()
      } catch (error) {
        this.#isInDoubt = isIoError(error)
        this.#isCrowded = isFull(error)
        throw error
      }
    })
  }

  /** The statement that lists models by `selectors`. */
  listBy(selectors: readonly Selector[]): List {
    const id = selectors.join()
    const known = this.#lists.get(id)
    if (known) return known
    const statement = prepareList(this.#db, selectors)
    this.#lists.set(id, statement)
    return statement
  }

  /** Writes a consistent copy of the database to `path`. Rejects with RegistryError. */
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

  /**
   * Moves the log into the database to free its room: the log holds every version of a page that has changed often. Does nothing where the database
   * finds no room for its new pages.
   */
  #shortenLog(): void {
    this.#isCrowded = false
    try {
      this.#db.pragma('wal_checkpoint(TRUNCATE)')
    } catch (error) {
      if (!isFull(error)) throw error
    }
  }

  /**
   * Moves what is committed from the log to the database, and cuts the log off. A transaction that was written but not synced is rolled back
   * in memory only: after a crash, SQLite would find it whole in the log and take it for committed.
   */
  #emptyLog(): void {
    const [{ busy }] = this.#db.pragma('wal_checkpoint(TRUNCATE)') as [{ busy: number }]
    if (busy) throw new RegistryError('catalog-failed', 'the log of the catalog cannot be emptied')
    // A write that changes nothing would not be synced, and neither would the cut.
    this.#db.pragma(`user_version = ${this.#db.pragma('user_version', { simple: true })}`)
    this.#isInDoubt = false
  }
}
