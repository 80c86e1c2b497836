import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import type { Database } from 'better-sqlite3'
import { RegistryError } from '../../errors.ts'
import { translateSqliteError } from './errors.ts'

const FOLDER = new URL('../../../migrations/', import.meta.url)
const NAME = /^(\d{4})-[a-z0-9-]+\.sql$/

interface Migration {
  readonly version: number
  readonly file: string
  readonly sql: string
  readonly sha256: string
}

/**
 * Brings a database to the newest schema: applies the missing migrations in order, each in a transaction of its own, and sets `user_version` to
 * the version of the last.
 * @throws RegistryError `catalog-failed` for a database of a newer build or of something else, an applied migration whose file has changed
 * since, or one that fails (its file is named); `storage-full` for one that finds no space
 */
export function migrate(db: Database): void {
  const migrations = readMigrations()
  const userVersion = db.pragma('user_version', { simple: true }) as number
  const applied = readApplied(db)
  const version = Math.max(userVersion, applied.at(-1)?.version ?? 0)
  if (version > migrations.length) {
    throw new RegistryError(
      'catalog-failed',
      `the catalog has schema version ${version}, this build knows ${migrations.length}: a newer registry has used it`,
    )
  }
  for (const [i, { file, sha256 }] of migrations.slice(0, applied.length).entries()) {
    if (applied[i]?.sha256 === sha256) continue
    throw new RegistryError(
      'catalog-failed',
      `migration ${file} is not the one that the catalog was made with`,
    )
  }
  for (const migration of migrations.slice(applied.length)) apply(db, migration)
}

/** The migrations that a database has had, in order. A new database gets the table that records them. */
function readApplied(db: Database): { version: number; sha256: string }[] {
  const tables = db.prepare<[], string>("SELECT name FROM sqlite_schema WHERE type = 'table'")
  const names = tables.pluck().all()
  if (names.length > 0 && !names.includes('migrations')) {
    throw new RegistryError('catalog-failed', 'the database is not a catalog: it has other tables')
  }
  db.exec(
    'CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, sha256 TEXT NOT NULL) STRICT',
  )
  return db
    .prepare<[], { version: number; sha256: string }>('SELECT * FROM migrations ORDER BY version')
    .all()
}

function apply(db: Database, { version, file, sql, sha256 }: Migration): void {
  const step = db.transaction(() => {
    db.exec(sql)
    db.prepare('INSERT INTO migrations VALUES (?, ?)').run(version, sha256)
    db.pragma(`user_version = ${version}`)
  })
  try {
    step.immediate()
  } catch (error) {
    throw translateSqliteError(error, `migration ${file}`)
  }
}

function readMigrations(): Migration[] {
  const files = readdirSync(FOLDER).filter(file => NAME.test(file))
  return files.sort().map((file, i) => {
    const version = Number(NAME.exec(file)![1])
    if (version !== i + 1) {
      throw new RegistryError('catalog-failed', `expected migration ${i + 1}, got ${file}`)
    }
    const sql = readFileSync(new URL(file, FOLDER), 'utf8')
    return { version, file, sql, sha256: createHash('sha256').update(sql).digest('hex') }
  })
}
