import { RegistryError } from '../errors.ts'
import type { FileRecord } from './records.ts'
import type { ModelRow } from './rows.ts'

/** Most bytes of the records of one page, estimated as JSON; one record more may go over it. */
export const MAX_PAGE_BYTES = 2 * 1024 * 1024
/** Estimated bytes of a model's JSON without its message and its files, and of one file without its path. */
const MODEL_BYTES = 1000
const FILE_BYTES = 120

/** A row with its files, as far as a record shows them. */
export interface FilledRow {
  readonly row: ModelRow
  readonly files: readonly FileRecord[]
}

/**
 * The first rows that make a page, with their files: at most `limit`, and no further one after {@link MAX_PAGE_BYTES}. `hasMore`: whether rows are
 * left. Rows are read one by one, so that those beyond the page are not read.
 */
export function fillPage(
  rows: Iterable<ModelRow>,
  limit: number,
  filesOf: (row: ModelRow) => readonly FileRecord[],
): { page: FilledRow[]; hasMore: boolean } {
  const page: FilledRow[] = []
  let bytes = 0
  for (const row of rows) {
    if (page.length === limit || bytes > MAX_PAGE_BYTES) return { page, hasMore: true }
    const files = filesOf(row)
    bytes += MODEL_BYTES + row.message.length
    for (const { path } of files) bytes += FILE_BYTES + path.length
    page.push({ row, files })
  }
  return { page, hasMore: false }
}

/** The cursor of the page that follows the model at `seq`. */
export function writeCursor(seq: number): string {
  return Buffer.from(`seq:${seq}`).toString('base64url')
}

/** @throws RegistryError `bad-request` for anything but a cursor of {@link writeCursor} */
export function readCursor(cursor: string): number {
  const match = /^seq:(\d{1,15})$/.exec(Buffer.from(cursor, 'base64url').toString())
  if (match) return Number(match[1])
  throw badCursor(cursor)
}

interface TokenPlace {
  readonly createdAt: string
  readonly id: string
}

/** The cursor of the page after a token. */
export function writeTokenCursor({ createdAt, id }: TokenPlace): string {
  return Buffer.from(`token:${createdAt}:${id}`).toString('base64url')
}

/** @throws RegistryError `bad-request` for anything but a cursor of {@link writeTokenCursor} */
export function readTokenCursor(cursor: string): TokenPlace {
  const match = /^token:(.+):([^:]+)$/.exec(Buffer.from(cursor, 'base64url').toString())
  if (match) return { createdAt: match[1]!, id: match[2]! }
  throw badCursor(cursor)
}

function badCursor(cursor: string): RegistryError {
  return new RegistryError(
    'bad-request',
    `cursor: expected the next of a page, got ${JSON.stringify(cursor.slice(0, 80))}`,
  )
}
