import { createHash } from 'node:crypto'
import type { BlobRecord } from '../../catalog/records.ts'
import type { RegistryError } from '../../errors.ts'
import type { BlobInfo, BlobStore } from '../../storage/blob-store.ts'
import { upstreamOf } from '../../storage/near-store.ts'
import { BlockError } from '../../workers/errors.ts'
import { mapOrdered } from '../../workers/map-ordered.ts'
import type { Log } from '../log.ts'
import type { ManifestHead } from '../models/manifest.ts'
import { readManifestHead } from '../models/manifest-bytes.ts'

/** Manifests read at once. */
const WIDTH = 16

/** Error codes of the store that mean: this blob cannot be read, although the store answers. */
const UNREADABLE: readonly string[] = ['blob-short', 'storage-failed']

/** The head of a manifest, and the record of its own blob. */
export interface Head extends ManifestHead {
  readonly record: BlobRecord
}

/** A manifest that cannot be read. */
export interface BadManifest {
  readonly manifest: BlobInfo
  readonly why: string
}

/** Reads manifests from the store itself. Leaves out those that were deleted but are still listed: listings may be stale. */
export async function* readHeads(
  blobs: BlobStore,
  manifests: Iterable<BlobInfo>,
): AsyncGenerator<Head | BadManifest> {
  for await (const head of mapOrdered(manifests, WIDTH, info => readHead(blobs, info))) {
    if (head) yield head
  }
}

async function readHead(blobs: BlobStore, manifest: BlobInfo): Promise<Head | BadManifest | null> {
  const { key, size } = manifest
  try {
    // Past the cache, which may be bad: nothing checks and retries this read.
    const bytes = await upstreamOf(blobs).read(key, { start: 0, end: size })
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    return { ...(await readManifestHead(key, bytes)), record: { key, size, sha256 } }
  } catch (error) {
    const { code, message } = error as RegistryError
    if (code === 'blob-missing') return null
    if (error instanceof BlockError || UNREADABLE.includes(code)) return { manifest, why: message }
    throw error
  }
}

/**
 * Manifests that the catalog does not know: of models that another registry has published, or that could not be adopted. Neither they nor
 * what they name is ever deleted, for they may be all that is left of a model; the next start adopts what it can.
 */
export class Strays {
  readonly #log: Log | undefined
  /** The blobs that each manifest names; null if it cannot be read. */
  readonly #named = new Map<string, readonly string[] | null>()

  constructor(log?: Log) {
    this.#log = log
  }

  /** Records a manifest; logs it the first time. */
  note(manifest: string, why: string, blobs: readonly string[] | null): void {
    if (this.#named.has(manifest)) return
    this.#named.set(manifest, blobs)
    const message = 'a manifest that the catalog does not know: it and what it names are left alone'
    this.#log?.warn({ manifest, why }, message)
  }

  /**
   * A test for blobs that these manifests, all that the catalog does not know, may need: true for a blob that must be spared. The blobs of a
   * manifest that cannot be read were stored before it, so all older ones are spared. Rejects as the store does.
   */
  async claims(
    blobs: BlobStore,
    manifests: readonly BlobInfo[],
  ): Promise<(blob: BlobInfo) => boolean> {
    const fresh = manifests.filter(({ key }) => !this.#named.has(key))
    for await (const head of readHeads(blobs, fresh)) {
      if ('manifest' in head) this.note(head.manifest.key, head.why, null)
      else this.note(head.record.key, 'it was published since the start', keysOf(head))
    }
    const named = new Set(manifests.flatMap(({ key }) => this.#named.get(key) ?? []))
    const unreadable = manifests.filter(({ key }) => this.#named.get(key) === null)
    const until = Math.max(...unreadable.map(({ modified }) => modified.getTime()))
    return ({ key, modified }) => named.has(key) || modified.getTime() <= until
  }
}

/** The keys of the blobs that a manifest names. */
export function keysOf({ blobs }: ManifestHead): string[] {
  return blobs.map(({ key }) => key)
}
