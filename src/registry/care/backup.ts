import { randomBytes } from 'node:crypto'
import { type FileHandle, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Catalog } from '../../catalog/catalog.ts'
import { RegistryError } from '../../errors.ts'
import type { Backup } from '../registry.ts'

/** Bytes of a copy that are read at a time. */
const READ_BYTES = 1024 * 1024

/** A consistent copy of the catalog, made in `scratch` while it is used. No other process sees it, and it goes when it is disposed of. */
export async function backup(catalog: Catalog, scratch: string): Promise<Backup> {
  const name = randomBytes(8).toString('hex')
  const path = join(scratch, `backup-${name}.sqlite`)
  try {
    await catalog.backup(path)
    const file = await open(path, 'r')
    const { size } = await file.stat()
    return {
      size,
      etag: name,
      sha256: null,
      mediaType: 'application/vnd.sqlite3',
      filename: 'registry.sqlite',
      open: ({ start, end }) => read(file, start, end),
      [Symbol.asyncDispose]: () => file.close(),
    }
  } finally {
    // Its bytes stay as long as it is open.
    await rm(path, { force: true })
  }
}

async function* read(file: FileHandle, start: number, end: number): AsyncGenerator<Uint8Array> {
  for (let at = start; at < end; ) {
    const bytes = new Uint8Array(Math.min(READ_BYTES, end - at))
    const { bytesRead } = await file.read(bytes, 0, bytes.length, at)
    if (bytesRead === 0) throw new RegistryError('internal', `a copy of the catalog ends at ${at}`)
    at += bytesRead
    yield bytes.slice(0, bytesRead)
  }
}
