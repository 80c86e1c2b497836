import type { Catalog } from '../../catalog/catalog.ts'
import { MAX_LISTED_FILES, type ModelRecord } from '../../catalog/records.ts'
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

  /** One model with all of its files. Rejects `damaged` if both its row and its manifest are bad. */
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

  /** The models of a page. A model whose row and manifest are both bad is left out, so that it does not hide the others. */
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
