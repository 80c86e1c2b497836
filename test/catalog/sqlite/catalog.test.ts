import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import t from 'tap'
import type { ModelRecord } from '../../../src/catalog/records.ts'
import { openSqliteCatalog } from '../../../src/catalog/sqlite/catalog.ts'
import {
  prepareList,
  prepareStatements,
  SELECTORS,
} from '../../../src/catalog/sqlite/statements.ts'
import { catalogContract } from '../catalog-contract.ts'
import { model } from '../contract/samples.ts'

const fixture = (file: string) => new URL(`../../fixtures/catalog/${file}`, import.meta.url)

catalogContract(t, async test => {
  const catalog = await openSqliteCatalog(join(test.testdir(), 'registry.sqlite'))
  test.teardown(() => catalog.close())
  return catalog
})

t.test('a catalog opened again has its models', async t => {
  const path = join(t.testdir(), 'registry.sqlite')
  const first = await openSqliteCatalog(path)
  const { record, blobs } = model()
  await first.insertModel(record, blobs)
  await first.close()
  const second = await openSqliteCatalog(path)
  t.strictSame(await second.model(record.id), record)
  await second.close()
  await second.close()
})

t.test('a second process on the same file is refused', async t => {
  const path = join(t.testdir(), 'registry.sqlite')
  const first = await openSqliteCatalog(path)
  await t.rejects(openSqliteCatalog(path), { code: 'catalog-failed', message: /in use by another/ })
  await first.close()
  await (await openSqliteCatalog(path)).close()
})

t.test('a catalog of a newer build is refused, not downgraded', async t => {
  const path = join(t.testdir(), 'registry.sqlite')
  await (await openSqliteCatalog(path)).close()
  const db = new Sqlite(path)
  db.prepare('INSERT INTO migrations VALUES (?, ?)').run(1000, '0'.repeat(64))
  db.close()
  await t.rejects(openSqliteCatalog(path), { code: 'catalog-failed', message: /newer/ })
})

t.test('so is one whose user_version is newer', async t => {
  const path = join(t.testdir(), 'registry.sqlite')
  await (await openSqliteCatalog(path)).close()
  const db = new Sqlite(path)
  const version = db.pragma('user_version', { simple: true }) as number
  t.ok(version > 0)
  db.pragma(`user_version = ${version + 1}`)
  db.close()
  await t.rejects(openSqliteCatalog(path), { code: 'catalog-failed', message: /newer/ })
})

t.test('a database of something else is refused, and gets no tables', async t => {
  const path = join(t.testdir(), 'registry.sqlite')
  const db = new Sqlite(path)
  db.exec('CREATE TABLE songs (title TEXT)')
  db.close()
  await t.rejects(openSqliteCatalog(path), { code: 'catalog-failed', message: /not a catalog/ })
  const after = new Sqlite(path)
  t.strictSame(after.prepare('SELECT name FROM sqlite_schema').pluck().all(), ['songs'])
  after.close()
})

t.test('a folder that is not there is named', async t => {
  const path = join(t.testdir(), 'none', 'registry.sqlite')
  await t.rejects(openSqliteCatalog(path), { code: 'catalog-failed', message: path })
})

t.test('a blob is forgotten without a look at every model', async t => {
  const path = join(t.testdir(), 'registry.sqlite')
  await (await openSqliteCatalog(path)).close()
  const db = new Sqlite(path)
  t.teardown(() => db.close())
  for (const [table, column] of [
    ['models', 'manifest'],
    ['models', 'delta'],
    ['files', 'blob'],
    ['model_blobs', 'blob'],
  ]) {
    const query = `EXPLAIN QUERY PLAN SELECT 1 FROM ${table} WHERE ${column} = ?`
    const [plan] = db.prepare<[string], { detail: string }>(query).all('key')
    t.match(plan!.detail, /^SEARCH .* INDEX/, `${table}.${column}`)
  }
})

t.test('a migration that changed after it was applied is refused', async t => {
  const path = join(t.testdir(), 'registry.sqlite')
  await (await openSqliteCatalog(path)).close()
  const db = new Sqlite(path)
  db.prepare('UPDATE migrations SET sha256 = ?').run('0'.repeat(64))
  db.close()
  await t.rejects(openSqliteCatalog(path), { code: 'catalog-failed', message: /0001-models\.sql/ })
})

t.test('a file that is no database is refused', async t => {
  const path = join(t.testdir({ 'registry.sqlite': 'x'.repeat(10_000) }), 'registry.sqlite')
  await t.rejects(openSqliteCatalog(path), { code: 'catalog-failed' })
})

t.test('a catalog of schema version 1 opens, and can be written', async t => {
  const path = join(t.testdir(), 'registry.sqlite')
  copyFileSync(fixture('v1.sqlite'), path)
  const catalog = await openSqliteCatalog(path)
  t.teardown(() => catalog.close())
  const { models } = await catalog.list({ limit: 10 })
  const old: ModelRecord[] = JSON.parse(readFileSync(fixture('v1.json'), 'utf8'))
  t.strictSame(
    models,
    old.map(one => ({ ...one, filesTotal: one.files.length })),
  )
  const { record, blobs } = model({ kind: 'delta', parent: models.at(-1)!.id })
  await catalog.insertModel(record, blobs)
  t.strictSame(await catalog.model(record.id), record)
})

t.test('marks of an earlier version move from models to the blobs that they name', async t => {
  const path = join(t.testdir(), 'registry.sqlite')
  copyFileSync(fixture('v1.sqlite'), path)
  const old = new Sqlite(path)
  const { id, manifest } = old
    .prepare<[], { id: string; manifest: string }>("SELECT * FROM models WHERE kind = 'base'")
    .get()!
  const damage = { file: 'manifest', offset: 7, at: '2026-11-24T10:00:00.000Z' }
  // Its deltas had the same mark.
  old.prepare('UPDATE models SET damaged = ?').run(JSON.stringify(damage))
  old
    .prepare("UPDATE models SET damaged = ? WHERE kind = 'delta'")
    .run(JSON.stringify({ ...damage, file: 'model.safetensors' }))
  old.close()
  const catalog = await openSqliteCatalog(path)
  t.teardown(() => catalog.close())
  t.match(await catalog.damagedBlobs(), [{ key: manifest, offset: 7, at: damage.at }])
  const { models } = await catalog.list({ limit: 10 })
  t.ok(models.length > 1)
  for (const { damaged } of models) t.strictSame(damaged, damage)
  await catalog.setBlobDamage(manifest, null)
  t.equal((await catalog.model(id))!.damaged, null)
})

t.test('a mark of an earlier version that is rotten does not keep the catalog shut', async t => {
  for (const mark of [
    '{"file":"manifest","offset":7,"at":"2026',
    '{"file":"manifest","offset":7}',
    '{"file":"manifest","offset":"7","at":"2026-11-24T10:00:00.000Z"}',
    '{"file":7,"offset":7,"at":"2026-11-24T10:00:00.000Z"}',
    '[]',
    '',
  ]) {
    const path = join(t.testdir(), 'registry.sqlite')
    copyFileSync(fixture('v1.sqlite'), path)
    const old = new Sqlite(path)
    old.prepare('UPDATE models SET damaged = ?').run(mark)
    old.close()
    const catalog = await openSqliteCatalog(path)
    t.strictSame(await catalog.damagedBlobs(), [], mark)
    for (const { damaged } of (await catalog.list({ limit: 10 })).models) t.equal(damaged, null)
    await catalog.close()
  }
})

t.test('a list of any selection is read from an index, a page at a time', async t => {
  const path = join(t.testdir(), 'registry.sqlite')
  await (await openSqliteCatalog(path)).close()
  const db = new Sqlite(path)
  t.teardown(() => db.close())
  for (const mask of Array.from({ length: 8 }, (_, i) => i)) {
    const selectors = SELECTORS.filter((_, i) => mask & (1 << i))
    const values = selectors.map(() => 'x')
    const { source } = prepareList(db, selectors)
    const plan = db
      .prepare<(string | number)[], { detail: string }>(`EXPLAIN QUERY PLAN ${source}`)
      .all(9, ...values, 1)
    const steps = plan.map(({ detail }) => detail)
    t.equal(steps.length, 1, `${selectors.join()}: ${steps.join('; ')}`)
    t.match(steps[0], /^SEARCH models USING /, 'neither scanned nor sorted')
  }
})

t.test(
  'models of one hash are read in their order from the indexes, however many there are',
  async t => {
    const path = join(t.testdir(), 'registry.sqlite')
    await (await openSqliteCatalog(path)).close()
    const db = new Sqlite(path)
    t.teardown(() => db.close())
    const { source } = prepareStatements(db).modelsByHash
    const plan = db
      .prepare<{ hash: string; limit: number }, { detail: string }>(`EXPLAIN QUERY PLAN ${source}`)
      .all({ hash: 'x', limit: 1 })
    const searches = plan.filter(({ detail }) => / models USING COVERING INDEX /.test(detail))
    t.equal(searches.length, 3)
    t.notOk(plan.some(({ detail }) => /SCAN models|MULTI-INDEX OR/.test(detail)))
  },
)

t.test('a full disk is told from other failures, and the next write works', async t => {
  const path = join(t.testdir(), 'registry.sqlite')
  const catalog = await openSqliteCatalog(path, { mostBytes: 300_000 })
  t.teardown(() => catalog.close())
  const large = model({ message: 'm'.repeat(2_000_000) })
  await t.rejects(catalog.insertModel(large.record, large.blobs), { code: 'storage-full' })
  t.equal(await catalog.model(large.record.id), null)
  const small = model()
  await catalog.insertModel(small.record, small.blobs)
  t.strictSame(await catalog.model(small.record.id), small.record)
})

t.test('a backup is a catalog', async t => {
  const folder = t.testdir()
  const catalog = await openSqliteCatalog(join(folder, 'registry.sqlite'))
  t.teardown(() => catalog.close())
  const { record, blobs } = model()
  await catalog.insertModel(record, blobs)
  await catalog.backup(join(folder, 'backup.sqlite'))
  const copy = await openSqliteCatalog(join(folder, 'backup.sqlite'))
  t.teardown(() => copy.close())
  t.strictSame(await copy.model(record.id), record)
})

t.test('a catalog with flipped bytes fails or answers, but never crashes', async t => {
  const folder = t.testdir()
  const path = join(folder, 'registry.sqlite')
  const catalog = await openSqliteCatalog(path)
  const { record, blobs } = model()
  await catalog.insertModel(record, blobs)
  await catalog.close()
  const whole = readFileSync(path)
  for (let i = 0; i < 200; i++) {
    const bytes = Buffer.from(whole)
    bytes[(i * 7919) % bytes.length]! ^= 1 << (i % 8)
    const damaged = join(folder, `damaged-${i}.sqlite`)
    writeFileSync(damaged, bytes)
    try {
      const opened = await openSqliteCatalog(damaged)
      await opened.list({ limit: 10 }).catch(error => t.equal(error.name, 'RegistryError'))
      await opened.close()
    } catch (error) {
      t.equal((error as Error).name, 'RegistryError', `byte ${(i * 7919) % bytes.length}`)
    }
  }
})
