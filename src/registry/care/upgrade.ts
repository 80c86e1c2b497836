import { createHash } from 'node:crypto'
import type { Catalog } from '../../catalog/catalog.ts'
import type { BlobRecord, DamagedBlob, ErrorFigures, ModelRecord } from '../../catalog/records.ts'
import { BlockSummer, type BlockSums } from '../../codec/base/block-sums.ts'
import { FRAME_BYTES } from '../../codec/base/limits.ts'
import type { Domain } from '../../codec/plan/recipes.ts'
import { parseLayout, withLengthWord } from '../../codec/safetensors/header.ts'
import type { RecordDelta } from '../../codec/wdelta/delta-index.ts'
import type { RegistryError } from '../../errors.ts'
import { blobKey } from '../../storage/blob-key.ts'
import type { BlobStore } from '../../storage/blob-store.ts'
import { putBlob } from '../../storage/put.ts'
import { threadKernels } from '../../workers/kernels.ts'
import type { Manifest, ManifestBlob } from '../models/manifest.ts'
import { openFrameDelta, writeManifest } from '../models/manifest-bytes.ts'
import type { Damages } from './damage.ts'

/**
 * The manifest of a model that an earlier version of this registry published: JSON, without checksums, among the other blobs. Version 1 knew
 * deltas of version 1 alone; version 2 has an identity and lossless deltas, which have an index of their own.
 */
interface OldManifest {
  readonly version: 1 | 2
  readonly identity?: string | null
  readonly shards: readonly { path: string; size: number; header: string; blob: string | null }[]
  readonly delta:
    | null
    | { readonly format: 2; readonly blob: string; readonly size: number }
    | {
        readonly format?: undefined
        readonly blob: string
        readonly domain: Domain
        readonly index: RecordDelta
        readonly errors: readonly [string, ErrorFigures][] | null
      }
}

export interface UpgradeDeps {
  readonly catalog: Catalog
  readonly blobs: BlobStore
  readonly damages: Damages
}

/** Models read in one page. */
const PAGE = 100
/** Error codes of the store for a blob that has lost bytes. */
const LOST: readonly string[] = ['blob-missing', 'blob-short']

/**
 * Gives the models that an earlier version has published a manifest of this one, once: their blobs are read and must have the SHA-256 that
 * they were published with. A model that cannot be upgraded, whatever the reason, stays as it is, is marked as damaged and cannot be read: it comes
 * back in `failed`. It is tried again at each start; a blob that was found to be bad is read again only where it has changed since.
 */
export async function upgradeManifests(
  deps: UpgradeDeps,
): Promise<{ upgraded: number; failed: { id: string; why: string }[] }> {
  const { catalog } = deps
  const upgrades = new Upgrades(deps, await catalog.damagedBlobs())
  const failed: { id: string; why: string }[] = []
  let upgraded = 0
  // Skips models of this version: there may be many.
  const before = 'manifests/'
  for (let after: string | undefined = ''; after !== undefined; ) {
    const models: ModelRecord[] = await catalog.modelsByManifest({ after, before, limit: PAGE })
    for (const model of models) {
      const why = await upgrades.model(model)
      if (why === null) upgraded++
      else failed.push({ id: model.id, why })
    }
    after = models.at(-1)?.manifest
  }
  return { upgraded, failed }
}

/** A blob whose bytes are not those that were published. */
class BadBlob extends Error {
  readonly key: string

  constructor(key: string, why: string) {
    super(`blob ${key}: ${why}`)
    this.key = key
  }
}

/** One pass over the models of earlier versions, and what it learned about their blobs. */
class Upgrades {
  readonly #deps: UpgradeDeps
  readonly #sums = new Map<string, BlockSums>()
  /** Blobs with a known bad block, by key. */
  readonly #bad: Map<string, DamagedBlob>

  constructor(deps: UpgradeDeps, bad: readonly DamagedBlob[]) {
    this.#deps = deps
    this.#bad = new Map(bad.map(blob => [blob.key, blob]))
  }

  /** Upgrades a model. Returns why it cannot be upgraded, or null. */
  async model(record: ModelRecord): Promise<string | null> {
    const { damages } = this.#deps
    const { manifest } = record
    try {
      await this.#upgrade(record)
      await damages.clear(manifest)
      return null
    } catch (error) {
      const { code, message } = error as RegistryError
      // The store does not answer now: that says nothing about the model.
      if (code !== 'storage-unavailable' && code !== 'storage-full') {
        await damages.mark(error instanceof BadBlob ? error.key : manifest, 0)
      }
      return message
    }
  }

  async #upgrade(record: ModelRecord): Promise<void> {
    const { catalog, blobs } = this.#deps
    const {
      manifest: old,
      storedSize: _size,
      damaged: _damaged,
      filesTotal: _total,
      ...rest
    } = record
    const model = { ...rest, files: await catalog.files(rest.id) }
    const stored = await this.#read(old)
    const named: ManifestBlob[] = []
    for (const key of new Set([...model.files.map(({ blob }) => blob), model.delta])) {
      if (key === null) continue
      const blob = await catalog.blob(key)
      named.push({ ...blob, sums: (await this.#sumsOf(blob)).sums })
    }
    const described = await this.#describe(stored)
    const pieces = await writeManifest({
      model,
      identity: stored.identity ?? null,
      ...described,
      blobs: named,
    })
    const key = blobKey('manifests', model.id)
    await putBlob(blobs, key, ...pieces)
    const hash = createHash('sha256')
    for (const piece of pieces) hash.update(piece)
    const size = pieces.reduce((sum, { length }) => sum + length, 0)
    await catalog.replaceManifest(model.id, { key, sha256: hash.digest('hex'), size })
  }

  async #read(key: string): Promise<OldManifest> {
    const { size } = await this.#deps.catalog.blob(key)
    const bytes = await this.#deps.blobs.read(key, { start: 0, end: size })
    const stored = JSON.parse(Buffer.from(bytes).toString()) as OldManifest
    const { version } = stored
    if (version === 1 || version === 2) return stored
    throw new BadBlob(key, `expected a manifest of version 1 or 2, got ${version}`)
  }

  async #describe({ shards, delta }: OldManifest): Promise<Pick<Manifest, 'shards' | 'delta'>> {
    const { blobs } = this.#deps
    if (delta?.format === 2) {
      return openFrameDelta(delta, (blob, start, end) => blobs.read(blob, { start, end }))
    }
    return {
      shards: shards.map(({ path, size, header, blob }) => ({
        path,
        blob,
        layout: parseLayout(withLengthWord(Buffer.from(header)), size),
      })),
      delta: delta && { ...delta, errors: delta.errors && new Map(delta.errors) },
    }
  }

  /** The checksums of a blob. Rejects with BadBlob if its bytes are not those that were published. */
  async #sumsOf({ key, size, sha256 }: BlobRecord): Promise<BlockSums> {
    const known = this.#sums.get(key)
    if (known) return known
    const { blobs, damages } = this.#deps
    if (await this.#isStillBad(key)) throw new BadBlob(key, 'it is known to be damaged')
    const { machine } = threadKernels()
    const hash = createHash('sha256')
    const summer = new BlockSummer(bytes => machine.checksum(bytes))
    for (let start = 0; start < size; start += FRAME_BYTES) {
      const range = { start, end: Math.min(start + FRAME_BYTES, size) }
      const bytes = await blobs.read(key, range).catch((error: RegistryError) => {
        throw LOST.includes(error.code) ? new BadBlob(key, error.message) : error
      })
      hash.update(bytes)
      summer.push(bytes)
    }
    const found = hash.digest('hex')
    if (found !== sha256) throw new BadBlob(key, `expected SHA-256 ${sha256}, got ${found}`)
    await damages.clear(key)
    const sums = summer.end()
    this.#sums.set(key, sums)
    return sums
  }

  /** Whether a bad blob is unchanged since it was found, judged by its time. */
  async #isStillBad(key: string): Promise<boolean> {
    const bad = this.#bad.get(key)
    if (!bad) return false
    for await (const { modified } of this.#deps.blobs.list(key)) {
      return modified.toISOString() <= bad.at
    }
    return true
  }
}
