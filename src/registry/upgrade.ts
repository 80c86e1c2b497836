import { createHash } from 'node:crypto'
import type { BlobRecord, Catalog, ErrorFigures, ModelRecord } from '../catalog/catalog.ts'
import {
  BlockSummer,
  type BlockSums,
  type DeltaIndexV1,
  type Domain,
  FRAME_BYTES,
  parseLayout,
} from '../codec/index.ts'
import { RegistryError } from '../errors.ts'
import { blobKey } from '../storage/blob-key.ts'
import type { BlobStore } from '../storage/blob-store.ts'
import { tools } from '../workers/tools.ts'
import { type Manifest, withLength, writeManifest } from './manifest.ts'

/** The manifest of a model that version 0.1 of this registry published: JSON, without checksums, among the other blobs. */
interface OldManifest {
  readonly version: 1
  readonly shards: readonly { path: string; size: number; header: string; blob: string | null }[]
  readonly delta: null | {
    readonly blob: string
    readonly domain: Domain
    readonly index: DeltaIndexV1
    readonly errors: readonly [string, ErrorFigures][] | null
  }
}

/** Models of one page. */
const PAGE = 100
/** What is wrong with one model says nothing of the others. */
const DAMAGE: readonly string[] = ['damaged', 'blob-missing', 'blob-short']

/**
 * Gives the models that an earlier version has published a manifest of this one, once: their blobs are read and must have the SHA-256 that
 * they were published with. A model that has others stays as it is, and cannot be read: it comes back in `failed`, with the reason.
 */
export async function upgradeManifests(
  catalog: Catalog,
  blobs: BlobStore,
): Promise<{ upgraded: number; failed: { id: string; why: string }[] }> {
  const sums = new Map<string, BlockSums>()
  const failed: { id: string; why: string }[] = []
  let upgraded = 0
  // Those of this version are not looked at: there may be many.
  const before = 'manifests/'
  for (let after: string | undefined = ''; after !== undefined; ) {
    const models: ModelRecord[] = await catalog.modelsByManifest({ after, before, limit: PAGE })
    for (const model of models) {
      try {
        await upgrade(catalog, blobs, model, sums)
        upgraded++
      } catch (error) {
        const { code, message } = error as RegistryError
        if (!DAMAGE.includes(code)) throw error
        failed.push({ id: model.id, why: message })
      }
    }
    after = models.at(-1)?.manifest
  }
  return { upgraded, failed }
}

async function upgrade(
  catalog: Catalog,
  blobs: BlobStore,
  record: ModelRecord,
  sums: Map<string, BlockSums>,
): Promise<void> {
  const {
    manifest: old,
    storedSize: _size,
    damaged: _damaged,
    filesTotal: _total,
    ...rest
  } = record
  const model = { ...rest, files: await catalog.files(rest.id) }
  const stored = await readOld(catalog, blobs, old)
  const keys = new Set([...model.files.map(({ blob }) => blob), model.delta])
  const named = []
  for (const key of keys) {
    if (key === null) continue
    const blob = await catalog.blob(key)
    const known = sums.get(key) ?? (await sumsOf(blobs, blob))
    sums.set(key, known)
    named.push({ ...blob, sums: known.sums })
  }
  const { delta } = stored
  const manifest: Manifest = {
    model,
    identity: null,
    shards: stored.shards.map(({ path, size, header, blob }) => ({
      path,
      blob,
      layout: parseLayout(withLength(Buffer.from(header)), size),
    })),
    delta: delta && { ...delta, errors: delta.errors && new Map(delta.errors) },
    blobs: named,
  }
  const pieces = await writeManifest(manifest)
  const body = async function* () {
    yield* pieces
  }
  const key = blobKey('manifests', model.id)
  await (await blobs.stage(key, body())).commit()
  const hash = createHash('sha256')
  for (const piece of pieces) hash.update(piece)
  const size = pieces.reduce((sum, { length }) => sum + length, 0)
  await catalog.replaceManifest(model.id, { key, sha256: hash.digest('hex'), size })
}

async function readOld(catalog: Catalog, blobs: BlobStore, key: string): Promise<OldManifest> {
  const { size } = await catalog.blob(key)
  const bytes = await blobs.read(key, { start: 0, end: size })
  return JSON.parse(Buffer.from(bytes).toString()) as OldManifest
}

/** The checksums of a blob, whose bytes are those that were published. */
async function sumsOf(blobs: BlobStore, { key, size, sha256 }: BlobRecord): Promise<BlockSums> {
  const { machine } = tools()
  const hash = createHash('sha256')
  const summer = new BlockSummer(bytes => machine.checksum(bytes))
  for (let start = 0; start < size; start += FRAME_BYTES) {
    const bytes = await blobs.read(key, { start, end: Math.min(start + FRAME_BYTES, size) })
    hash.update(bytes)
    summer.push(bytes)
  }
  const found = hash.digest('hex')
  if (found === sha256) return summer.end()
  throw new RegistryError('damaged', `blob ${key}: expected SHA-256 ${sha256}, got ${found}`)
}
