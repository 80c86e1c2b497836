import { RegistryError } from '../../errors.ts'
import type { CatalogModels, ModelQuery } from '../catalog.ts'
import { CATALOG_FILE } from '../file-names.ts'
import { readCursor } from '../pages.ts'
import type { FileRecord, ModelRecord } from '../records.ts'
import { digestFiles, type ModelRow } from '../rows.ts'
import type { Connection } from './connection.ts'
import { countDeltas, walkUp } from './lineage.ts'
import { deleteModel, insertModel, replaceManifest } from './model-changes.ts'
import { ModelReader } from './model-reader.ts'
import { SELECTORS, type Statements } from './statements.ts'

/** Most rows of one hash that are looked at for the parent of a delta: they take about 10 ms. */
const MAX_SCANNED = 2000
/** Most models of one hash, if the caller sets no limit. */
const MAX_BY_HASH = 1000

/** The models of a catalog. */
export function modelMethods(connection: Connection): CatalogModels {
  const { sql } = connection
  const reader = new ModelReader(sql)
  const all = (rows: () => ModelRow[]) => connection.read(() => reader.all(rows()))
  return {
    model: id => connection.read(() => reader.one(sql.modelById.get(id))),
    hasModel: id => connection.read(() => sql.linkOf.get(id) !== undefined),
    files: id => connection.read(() => filesOf(sql, id)),
    resolve: (name, revision) =>
      connection.read(async () => {
        const model = await reader.one(sql.modelByRevision.get(name, revision))
        if (model) checkRevision(model, name, revision)
        return model
      }),

    list: query => connection.read(() => reader.page(newestFirst(connection, query), query.limit)),
    lineage: (id, { limit, cursor }) =>
      connection.read(async () => {
        const after = cursor === undefined ? 0 : readCursor(cursor)
        const ids = await walkUp(sql, id, after)
        return reader.page(rowsOf(sql, ids.reverse()), limit)
      }),
    depth: id => connection.read(() => countDeltas(sql, id)),

    byHash: (hash, limit = MAX_BY_HASH) => all(() => sql.modelsByHash.all({ hash, limit })),
    candidates: ({ hash, named }, limit) => {
      const { signature = null, count = null } = named ?? {}
      const query = { hash, signature, count, scanned: MAX_SCANNED, limit }
      return all(() => sql.candidates.all(query))
    },
    bySignature: (signature, limit) => all(() => sql.modelsBySignature.all(signature, limit)),
    modelsByManifest: ({ after, before, limit }) =>
      all(() => sql.modelsByManifest.all(after, before, limit)),
    modelsOf: (key, limit) => all(() => sql.modelsOfBlob.all(key, limit)),

    insertModel: (model, blobs) => connection.write(() => insertModel(sql, model, blobs)),
    deleteModel: id => connection.write(() => deleteModel(sql, id)),
    replaceManifest: (id, manifest) => connection.write(() => replaceManifest(sql, id, manifest)),
    distrust: id => connection.write(() => void sql.distrust.run(id)),
    dropRevision: (name, revision, before) =>
      connection.write(() => void sql.dropRevision.run(name, revision, before)),
  }
}

function filesOf(sql: Statements, id: string): FileRecord[] {
  const files = sql.filesOf.all(id, -1)
  const row = sql.modelById.get(id)
  if (row && row.files_digest !== digestFiles(files)) {
    const message = `the files of model ${id} are not those that were inserted`
    throw new RegistryError('damaged', message)
  }
  return files
}

/** @throws RegistryError `catalog-failed` for a model that cannot be what the revision points at */
function checkRevision(model: ModelRecord, name: string, revision: string): void {
  const isOther = model.name !== name || model.revision !== revision
  // The name in a damaged row is not to be trusted; that in its manifest is.
  if (!isOther || model.damaged?.file === CATALOG_FILE) return
  const message = `revision ${name}@${revision} points at ${model.id}, a model of ${model.name}@${model.revision}`
  throw new RegistryError('catalog-failed', message)
}

/** The rows that a query selects, read one by one: one more than its limit, to tell whether there is another page. */
function newestFirst(
  connection: Connection,
  { limit, cursor, ...selected }: ModelQuery,
): Iterable<ModelRow> {
  const before = cursor === undefined ? Number.MAX_SAFE_INTEGER : readCursor(cursor)
  const selectors = SELECTORS.filter(selector => selected[selector] !== undefined)
  const values = selectors.map(selector => selected[selector]!)
  return connection.listBy(selectors).iterate(before, ...values, limit + 1)
}

function* rowsOf(sql: Statements, ids: readonly string[]): Generator<ModelRow> {
  for (const id of ids) {
    const row = sql.modelById.get(id)
    if (row) yield row
  }
}
