import { copyFileSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Sqlite from 'better-sqlite3'
import t, { type Test } from 'tap'
import type { RegistryError } from '../../../src/errors.ts'
import type { Content, ListedModel, Model, Registry } from '../../../src/registry/registry.ts'
import { openFolderBlobStore } from '../../../src/storage/folder/blob-store.ts'
import { weights } from '../../support/models/weights.ts'
import {
  bytesOf,
  openRegistryOver,
  openTestRegistry,
  part,
  publish,
} from '../../support/servers/test-registry.ts'

const SIGNAL = new AbortController().signal
const MODEL = 'model.safetensors'
/** More than a list shows. */
const MANY = Array.from({ length: 101 }, (_, i) => `notes/${i}.txt`)
const CATALOG = 'registry.sqlite'

interface Truth {
  readonly model: Model
  /** Every content of the model by name, with what it must give. */
  readonly contents: ReadonlyMap<string, { readonly etag: string; readonly bytes: Buffer }>
}

/** The contents of a model by name, each opened when it is asked for. */
function contentsOf(registry: Registry, { id, kind, files }: Model) {
  const contents = new Map<string, () => Promise<Content>>()
  contents.set('reconstruct', () => registry.models.openReconstruct(id))
  contents.set('float32', () => registry.models.openReconstruct(id, 'F32'))
  if (kind === 'delta') contents.set('delta', () => registry.models.openDelta(id))
  // Of many files that are alike, the first and the last.
  for (const { path } of files.length > 3 ? [files[0]!, files.at(-1)!] : files) {
    contents.set(path, () => registry.models.openFile(id, path))
  }
  return contents
}

/** A base, deltas of both kinds on it and a model of many files: the store in `folder`, and the truth. */
async function scene(t: Test, folder: string) {
  const { registry, close } = await openTestRegistry(t, folder)
  const config = () => part('config.json', Buffer.from('{"model_type": "made-up"}'))
  const notes = MANY.map(path => part(path, Buffer.from(`# ${path}`)))
  const base = await publish(registry, [part(MODEL, weights(1)), config()], { name: 'acme/base' })
  const tuned = weights(2, weights(1))
  const options = (strategy: 'lossless' | 'int4') => ({
    name: `acme/${strategy}`,
    parent: base.id,
    strategy,
  })
  const published = [
    base,
    await publish(registry, [part(MODEL, tuned), config()], options('lossless')),
    await publish(registry, [part(MODEL, tuned), config()], options('int4')),
    await publish(registry, [part(MODEL, weights(3)), ...notes], { name: 'acme/many' }),
  ]
  const truth = new Map<string, Truth>()
  for (const model of published) {
    const contents = new Map<string, { etag: string; bytes: Buffer }>()
    for (const [name, open] of contentsOf(registry, model)) {
      const content = await open()
      contents.set(name, { etag: content.etag, bytes: await bytesOf(content) })
    }
    truth.set(model.id, { model: await registry.models.find(model.id), contents })
  }
  await close()
  return truth
}

/** Reads everything: what is told and given is the truth, or refused with a code that says whose fault it is. The codes that came. */
async function readAll(t: Test, registry: Registry, truth: ReadonlyMap<string, Truth>) {
  const codes = new Set<string>()
  const refused = (error: RegistryError) => {
    codes.add(error.code)
    if (!EXPECTED.includes(error.code)) t.fail(`${error.code}: ${error.message}`)
    return null
  }
  const same = (model: ListedModel, what: string) => {
    const expected = truth.get(model.id)?.model
    if (!expected) {
      t.fail(`${what}: a model that there is not`)
      return
    }
    const { damaged: _damaged, files = expected.files, ...told } = model
    const { damaged: _none, ...known } = expected
    t.strictSame({ ...told, files }, known, what)
  }
  for (const [id, { model, contents }] of truth) {
    const found = await registry.models.find(id).catch(refused)
    if (found) same(found, `${model.name} as it is shown`)
    const ref = await registry.models.find(`${model.name}@main`).catch(refused)
    if (ref) same(ref, `${model.name} by its name`)
    for (const [name, open] of contentsOf(registry, model)) {
      const expected = contents.get(name)!
      const what = `${model.name} ${name}`
      const content = await open().catch(refused)
      if (!content) continue
      const { size, etag, sha256 } = content
      t.equal(size, expected.bytes.length, `${what}: size`)
      t.equal(etag, expected.etag, `${what}: ETag`)
      const file = model.files.find(({ path }) => path === name)
      if (file) t.equal(sha256, file.sha256, `${what}: digest`)
      const bytes = await bytesOf(content).catch(refused)
      if (bytes && !bytes.equals(expected.bytes)) t.fail(`${what}: wrong bytes`)
    }
  }
  const list = await registry.models.list({ limit: 100 }).catch(refused)
  for (const model of list?.models ?? []) same(model, `${model.name} in the list`)
  await registry.models.stats().catch(refused)
  return codes
}

const EXPECTED = ['damaged', 'catalog-failed', 'model-not-found', 'blob-missing', 'blob-short']

interface Place {
  readonly table: string
  readonly column: string
  readonly row: number
}

/** Every column of some rows of each table that tells of models. */
function places(path: string): Place[] {
  const db = new Sqlite(path, { readonly: true })
  const rows = {
    models: [1, 3],
    files: [0, 2],
    blobs: [0, 2, 4],
    model_blobs: [0, 3],
    revisions: [0],
  }
  try {
    return Object.entries(rows).flatMap(([table, chosen]) => {
      const columns = db.prepare<[], string>(`SELECT name FROM pragma_table_info('${table}')`)
      return columns
        .pluck()
        .all()
        .flatMap(column => chosen.map(row => ({ table, column, row })))
    })
  } finally {
    db.close()
  }
}

/** Changes one value; false where that makes no row that the database would take. */
function spoil(path: string, { table, column, row }: Place): boolean {
  const db = new Sqlite(path)
  try {
    db.pragma('foreign_keys = OFF')
    db.pragma('ignore_check_constraints = ON')
    // The first column tells the rows of each of these tables in an order of their own.
    const keys = db.prepare<[], Record<string, unknown>>(`SELECT * FROM ${table} ORDER BY 1, 2`)
    const found = keys.all()[row]!
    const value = found[column]
    const other =
      typeof value === 'number'
        ? value + 1000
        : value === null
          ? null
          : `${value}`.replace(/[0-9a-z]/, char => (char === '7' ? '8' : '7'))
    if (other === value) return false
    const names = Object.keys(found).filter(name => found[name] !== null)
    const where = names.map(name => `"${name}" = ?`).join(' AND ')
    const values = names.map(name => found[name])
    return (
      db.prepare(`UPDATE ${table} SET "${column}" = ? WHERE ${where}`).run(other, ...values)
        .changes === 1
    )
  } finally {
    db.close()
  }
}

const storedIn = (folder: string) => globSync(join(folder, 'store/{blobs,manifests}/*/*')).sort()

/** A registry over a spoiled copy of the catalog and the store as it was; null where it does not start, and says why. */
async function openSpoiled(t: Test, folder: string, spoiled: string) {
  try {
    return await openRegistryOver(t, spoiled, await openFolderBlobStore(join(folder, 'store')))
  } catch (error) {
    t.equal((error as RegistryError).code, 'catalog-failed', String(error))
    return null
  }
}

t.test('a value of the catalog that has changed is never believed', async t => {
  const folder = t.testdir({ store: {} })
  const truth = await scene(t, folder)
  const stored = storedIn(folder)
  const spoiled = join(folder, 'spoiled')
  const codes = new Set<string>()
  for (const place of places(join(folder, CATALOG))) {
    const { table, column, row } = place
    await t.test(`${table}.${column}, row ${row}`, async t => {
      rmSync(spoiled, { recursive: true, force: true })
      mkdirSync(spoiled)
      copyFileSync(join(folder, CATALOG), join(spoiled, CATALOG))
      if (!spoil(join(spoiled, CATALOG), place)) return
      const opened = await openSpoiled(t, folder, spoiled)
      if (!opened) return
      for (const code of await readAll(t, opened.registry, truth)) codes.add(code)
      await opened.registry.care.scrub({ signal: SIGNAL }).catch((error: RegistryError) => {
        t.ok(EXPECTED.includes(error.code), error.message)
      })
      await opened.close()
      t.strictSame(storedIn(folder), stored, 'nothing was swept')
    })
  }
})

t.test('a row that differs from its manifest is damage, and its manifest is served', async t => {
  const folder = t.testdir({ store: {} })
  const truth = await scene(t, folder)
  const [first] = truth.values()
  const { id } = first!.model
  const change = (sql: string, ...values: string[]) => {
    const db = new Sqlite(join(folder, CATALOG))
    db.prepare(sql).run(...values)
    db.close()
  }
  // Without its digest a row is sealed as it is: one that rotted before there were any.
  change('UPDATE models SET message = ?, digest = NULL WHERE id = ?', 'never written', id)
  const { registry } = await openTestRegistry(t, folder)
  t.match(await registry.models.find(id), { message: 'never written', damaged: null })
  await registry.models.openReconstruct(id)
  t.match(await registry.models.find(id), {
    message: '',
    damaged: { file: CATALOG, offset: 0, at: String },
  })
  const { models } = await registry.models.list({ limit: 10 })
  t.match(models.at(-1), { id, message: '', damaged: { file: CATALOG } })
  const report = await registry.care.scrub({ signal: SIGNAL })
  t.match(report, { damagedTotal: 1, damaged: [{ model: id, file: CATALOG }], cleared: [] })
  t.match(
    await registry.models.find(id),
    { damaged: { file: CATALOG } },
    'reading does not mend it',
  )
})

t.test('a scrub finds what nobody has opened', async t => {
  const folder = t.testdir({ store: {} })
  const truth = await scene(t, folder)
  const many = [...truth.values()].at(-1)!.model
  const db = new Sqlite(join(folder, CATALOG))
  db.prepare('UPDATE files SET sha256 = ? WHERE model = ? AND position = 50').run(
    'f'.repeat(64),
    many.id,
  )
  db.close()
  const { registry } = await openTestRegistry(t, folder)
  const { damaged } = await registry.care.scrub({ signal: SIGNAL })
  t.match(damaged, [{ model: many.id, file: CATALOG }])
  const found = await registry.models.find(many.id)
  t.strictSame(found.files, many.files)
  t.match(found.damaged, { file: CATALOG })
})

t.test(
  'flipped bits anywhere in the catalog end a start, or are told from what is true',
  async t => {
    const folder = t.testdir({ store: {} })
    const truth = await scene(t, folder)
    const whole = readFileSync(join(folder, CATALOG))
    const spoiled = join(folder, 'spoiled')
    const count = process.env['FULL'] ? 400 : 20
    for (let i = 0; i < count; i++) {
      const at = Math.floor(((i + 0.5) * whole.length) / count)
      const bytes = Buffer.from(whole)
      bytes[at]! ^= 1 << (i % 8)
      await t.test(`byte ${at}`, async t => {
        rmSync(spoiled, { recursive: true, force: true })
        mkdirSync(spoiled)
        writeFileSync(join(spoiled, CATALOG), bytes)
        const opened = await openSpoiled(t, folder, spoiled)
        if (!opened) return
        await readAll(t, opened.registry, truth)
        await opened.close().catch((error: RegistryError) => t.equal(error.code, 'catalog-failed'))
      })
    }
  },
)
