import { createHash, randomBytes } from 'node:crypto'
import type { Test } from 'tap'
import type { Catalog } from '../../../src/catalog/catalog.ts'
import type { BlobRecord, ModelRecord, TokenRecord } from '../../../src/catalog/records.ts'
import { newBlobKey } from '../../../src/storage/blob-key.ts'

/** Runs a test over an empty catalog. */
export type CatalogTest = (name: string, fn: (t: Test, catalog: Catalog) => Promise<void>) => void

export const sha = (text: string) => createHash('sha256').update(text).digest('hex')

/** A blob of its own content. */
export function blob(size = 100): BlobRecord {
  const key = newBlobKey()
  return { key, sha256: sha(key), size }
}

/** A model with one shard and a manifest, and the blobs that it needs. */
export function model(changes: Partial<ModelRecord> = {}): {
  record: ModelRecord
  blobs: BlobRecord[]
} {
  const id = changes.id ?? randomBytes(20).toString('hex')
  const [manifest, data] = [blob(10), blob(1000)]
  const delta = changes.kind === 'delta'
  const files = changes.files ?? [
    { path: 'a.json', size: 1, sha256: sha('a'), blob: delta ? null : data.key },
    { path: 'Z.safetensors', size: 2000, sha256: sha('z'), blob: null },
  ]
  const record: ModelRecord = {
    id,
    name: 'acme/model',
    revision: 'main',
    kind: 'base',
    strategy: delta ? 'int4' : 'whole',
    parent: null,
    tensors: 3,
    parameters: 494_032_768,
    dtypes: ['BF16', 'F32'],
    size: 2 ** 40 + 1,
    sha256: sha(id),
    storedSize: 1010,
    hashes: { stored: sha(`${id}s`), shardOrder: sha(`${id}o`), float32: sha(`${id}f`) },
    signature: sha('signature'),
    files,
    filesTotal: files.length,
    manifest: manifest.key,
    delta: delta ? data.key : null,
    error: delta ? { nmse: 0.01, maxAbs: 1e-7 } : null,
    damaged: null,
    message: 'first — "light"',
    createdAt: '2026-11-24T10:00:00.000Z',
    ...changes,
  }
  return { record, blobs: [manifest, data] }
}

export const token = (id: string, changes: Partial<TokenRecord> = {}): TokenRecord => ({
  id,
  name: 'ci',
  scope: 'write',
  secretHash: sha(id),
  createdAt: '2026-11-24T10:00:00.000Z',
  expiresAt: null,
  ...changes,
})

export async function insert(
  catalog: Catalog,
  changes: Partial<ModelRecord> = {},
): Promise<ModelRecord> {
  const { record, blobs } = model(changes)
  await catalog.insertModel(record, blobs)
  return record
}

export const ids = (records: readonly ModelRecord[]) => records.map(({ id }) => id)

export const ALL = { after: '', limit: 1000 }
