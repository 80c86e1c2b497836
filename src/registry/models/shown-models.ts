import { type Catalog, MAX_LISTED_FILES, type ModelRecord } from '../../catalog/catalog.ts'
import type { RegistryError } from '../../errors.ts'
import type { ListedModel, Model } from '../registry.ts'
import type { OpenedModels } from './opened-models.ts'
import { isRotten } from './true-records.ts'

/** Models as the REST API shows them. Where a row is not what was inserted, its manifest is asked. */
export class ShownModels {
  readonly #catalog: Catalog
  readonly #models: OpenedModels

  constructor(catalog: Catalog, models: OpenedModels) {
    this.#catalog = catalog
    this.#models = models
  }

  /** One model with all of its files. Rejects `damaged` where neither its row nor its manifest can be believed. */
  async one(row: ModelRecord): Promise<Model> {
    if (isRotten(row)) return toModel(await this.#models.truth(row))
    const { id, files, filesTotal } = row
    if (files.length === filesTotal) return toModel(row)
    try {
      return toModel({ ...row, files: await this.#catalog.files(id) })
    } catch (error) {
      if ((error as RegistryError).code !== 'damaged') throw error
      await this.#models.distrust(id)
      return toModel(await this.#models.truth((await this.#catalog.model(id)) ?? row))
    }
  }

  /** The models of a page. One of which nothing can be believed is left out: it must not hide the others. */
  async page(rows: readonly ModelRecord[]): Promise<ListedModel[]> {
    const shown: ListedModel[] = []
    for (const row of rows) {
      const record = isRotten(row) ? await this.#models.truth(row).catch(() => null) : row
      if (record) shown.push(toListed(record))
    }
    return shown
  }
}

/** A record with all of its files as the REST API shows it: without what only the registry needs. */
export function toModel(record: ModelRecord): Model {
  const { manifest: _manifest, delta: _delta, signature: _signature, hashes, ...shown } = record
  return {
    ...shown,
    hashes: { stored: hashes.stored, float32: hashes.float32 },
    files: record.files.map(({ path, size, sha256 }) => ({ path, size, sha256 })),
  }
}

function toListed(record: ModelRecord): ListedModel {
  const { files, ...listed } = toModel(record)
  const isShort = files.length === record.filesTotal && files.length <= MAX_LISTED_FILES
  return isShort ? { ...listed, files } : listed
}
