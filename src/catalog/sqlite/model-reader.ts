import { type FilledRow, fillPage, writeCursor } from '../pages.ts'
import { MAX_LISTED_FILES, type ModelRecord } from '../records.ts'
import { digestFiles, type ModelRow, toModel } from '../rows.ts'
import { ModelDamage } from './model-damage.ts'
import type { Statements } from './statements.ts'

/** Makes records of rows: with their files, and what is known of their damage. */
export class ModelReader {
  readonly #sql: Statements
  readonly #damage: ModelDamage

  constructor(sql: Statements) {
    this.#sql = sql
    this.#damage = new ModelDamage(sql)
  }

  async one(row: ModelRow | undefined): Promise<ModelRecord | null> {
    const [model = null] = await this.all(row ? [row] : [])
    return model
  }

  all(rows: readonly ModelRow[]): Promise<ModelRecord[]> {
    return this.#toModels(rows.map(row => this.#withFiles(row)))
  }

  /** The first records that make a page, and the cursor of the page after it; rows beyond the page are not read. */
  async page(
    rows: Iterable<ModelRow>,
    limit: number,
  ): Promise<{ models: ModelRecord[]; next: string | null }> {
    const { page, hasMore } = fillPage(rows, limit, row => this.#withFiles(row).files)
    const next = hasMore ? writeCursor(page.at(-1)!.row.seq) : null
    return { models: await this.#toModels(page), next }
  }

  /** A row with its files, if they are no more than a record shows. */
  #withFiles(row: ModelRow): FilledRow {
    return { row, files: isShort(row) ? this.#sql.filesOf.all(row.id, MAX_LISTED_FILES + 1) : [] }
  }

  async #toModels(page: readonly FilledRow[]): Promise<ModelRecord[]> {
    const rows = page.map(({ row }) => row)
    const files = new Map(page.map(({ row, files }) => [row, files]))
    const damages = await this.#damage.of(
      rows,
      row => !isShort(row) || digestFiles(files.get(row)!) === row.files_digest,
    )
    return page.map(({ row, files }, i) => toModel(row, files, damages[i]!))
  }
}

function isShort({ files_total }: ModelRow): boolean {
  return files_total <= MAX_LISTED_FILES
}
