import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import type { Database } from 'better-sqlite3'
import { RegistryError } from '../errors.ts'

const FOLDER = new URL('../../migrations/', import.meta.url)
const NAME = /^(\d{4})-[a-z0-9-]+\.sql$/

interface Migration {
  readonly version: number
  readonly file: string
  readonly sql: string
  readonly sha256: string
}

/**
 * Brings a database to the newest schema: every migration that it lacks, in order, each in a transaction of its own.
 * @throws RegistryError `catalog-failed` for a database of a newer build, an applied migration that has changed since, or one
 * that fails (its file is named)
 */
export function migrate(db: Database): void {
  const migrations = readMigrations()
  db.exec(
    'CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, sha256 TEXT NOT NULL) STRICT',
  )
  const applied = db
    .prepare<[], { version: number; sha256: string }>('SELECT * FROM migrations ORDER BY version')
    .all()
  for (const { version, sha256 } of applied) checkApplied(migrations, version, sha256)
  for (const migration of migrations.slice(applied.length)) apply(db, migration)
}

function checkApplied(migrations: readonly Migration[], version: number, sha256: string): void {
  const migration = migrations[version - 1]
  if (!migration) {
    throw new RegistryError(
      'catalog-failed',
      `the catalog has schema version ${version}, this build knows ${migrations.length}: a newer registry has used it`,
    )
  }
  if (migration.sha256 === sha256) return
  throw new RegistryError(
    'catalog-failed',
    `migration ${migration.file} is not the one that the catalog was made with`,
  )
}

function apply(db: Database, { version, file, sql, sha256 }: Migration): void {
  const step = db.transaction(() => {
    db.exec(sql)
    db.prepare('INSERT INTO migrations VALUES (?, ?)').run(version, sha256)
  })
  try {
    step.immediate()
  } catch (cause) {
    throw new RegistryError('catalog-failed', `migration ${file} failed`, { cause })
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
