import { createHash } from 'node:crypto'
import type { Catalog } from '../../catalog/catalog.ts'
import type { BlobRecord, ModelRecord } from '../../catalog/records.ts'
import { BlockSummer, type BlockSums } from '../../codec/base/block-sums.ts'
import { kindOf, newBlobKey } from '../../storage/blob-key.ts'
import type { BlobStore, Staged } from '../../storage/blob-store.ts'
import { threadKernels } from '../../workers/kernels.ts'
import { deleteBlobs, type OwnedStore } from '../holds/delete-blobs.ts'
import type { Holds, Locks, Pins } from '../holds/holds.ts'
import type { Lease } from '../holds/lease.ts'
import { holdModel } from '../models/hold-model.ts'
import type { Layer } from '../models/open-budget.ts'
import type { OpenedModel, OpenedModels } from '../models/opened-models.ts'
import type { FreshBlobs } from './fresh-blobs.ts'

export interface PublicationDeps extends OwnedStore {
  readonly catalog: Catalog
  readonly holds: Pick<Holds, 'pins' | 'locks'>
  readonly fresh: FreshBlobs
  readonly models: Pick<OpenedModels, 'hold' | 'reserve'>
  /** Manifests of failed publications that could not be deleted at once. The sweep deletes them. */
  readonly abandoned: Set<string>
  /** Whether a stored blob has the bytes that it should have. A bad one is marked, and is no longer found. */
  readonly isSound: (key: string, sums: BlockSums, signal: AbortSignal) => Promise<boolean>
  /** See `PublishOptions.authorized`. */
  readonly authorized?: (() => Promise<void>) | undefined
}

/** An incoming blob: staged and hashed, not yet visible. */
export interface StagedBlob extends BlobRecord {
  readonly staged: Staged
  readonly sums: BlockSums
}

/**
 * The blobs of one publication. The order that makes a model visible only after proof: stage -> verify -> commit blobs -> commit
 * row -> answer. Whatever fails before the row is dropped by `dispose`; what a crash leaves, the sweep takes.
 */
export class Publication implements AsyncDisposable {
  readonly #blobs: BlobStore
  readonly #lease: Lease
  readonly #catalog: Catalog
  readonly #pins: Pins
  readonly #staged = new Set<StagedBlob>()
  /** By SHA-256. */
  readonly #kept = new Map<string, BlobRecord>()
  readonly #sums = new Map<string, BlockSums>()
  /** Keys committed for this publication alone and deleted at its end: temporary blobs, and the manifest if no row was inserted. */
  readonly #ours = new Set<string>()
  /** Blobs without a row when this publication came to need them. Other publications may use them too. */
  readonly #shared: BlobRecord[] = []
  readonly #held = new AsyncDisposableStack()
  readonly #heldModels = new Set<OpenedModel>()
  readonly #heldLayers = new Set<Layer>()
  /** Bytes of all that is held or reserved, each thing counted once. */
  #heldBytes = 0
  readonly #locks: Locks
  readonly #fresh: FreshBlobs
  readonly #models: PublicationDeps['models']
  readonly #abandoned: Set<string>
  readonly #isSound: PublicationDeps['isSound']
  readonly #authorized: () => Promise<void>

  constructor(deps: PublicationDeps) {
    this.#blobs = deps.blobs
    this.#lease = deps.lease
    this.#catalog = deps.catalog
    this.#pins = deps.holds.pins
    this.#locks = deps.holds.locks
    this.#fresh = deps.fresh
    this.#models = deps.models
    this.#abandoned = deps.abandoned
    this.#isSound = deps.isSound
    this.#authorized = deps.authorized ?? (async () => {})
  }

  /** Blobs that the model will refer to. */
  get kept(): readonly BlobRecord[] {
    return [...this.#kept.values()]
  }

  /** Checksums of all blobs committed so far, temporary ones among them. */
  get sums(): ReadonlyMap<string, BlockSums> {
    return this.#sums
  }

  /** Keeps the blobs of a model until the end of this publication: see {@link holdModel}. Holding it again does nothing. */
  async hold(model: OpenedModel): Promise<void> {
    if (this.#heldModels.has(model)) return
    this.#heldModels.add(model)
    this.#held.use(this.#models.hold(model))
    this.#heldBytes += model.ownBytes
    for (let at: Layer | null = model.layer; at && !this.#heldLayers.has(at); at = at.parent) {
      this.#heldLayers.add(at)
      this.#heldBytes += at.bytes
    }
    this.#held.use(await holdModel({ catalog: this.#catalog, pins: this.#pins }, model))
  }

  /**
   * Reserves memory until the end of this publication. Rejects `lineage-too-large` if it alone takes more than there is, `overloaded` if
   * others do for too long.
   */
  async reserve(bytes: number, signal: AbortSignal): Promise<void> {
    this.#held.use(await this.#models.reserve(bytes, this.#heldBytes, signal))
    this.#heldBytes += bytes
  }

  /** Stages `body` to its end, under a new key where none is given. */
  async stage(
    body: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
    key = newBlobKey(),
  ): Promise<StagedBlob> {
    const hash = createHash('sha256')
    const { machine } = threadKernels()
    const summer = new BlockSummer(bytes => machine.checksum(bytes))
    const staged = await this.#blobs.stage(key, seen(body, hash, summer), signal)
    const sha256 = hash.digest('hex')
    const blob = { key, sha256, size: staged.size, staged, sums: summer.end() }
    this.#staged.add(blob)
    return blob
  }

  /**
   * Commits the staged blobs for the model, or drops those whose content is stored already and read back as it should be; in the order of
   * `staged`.
   */
  async keepAll(staged: readonly StagedBlob[], signal: AbortSignal): Promise<BlobRecord[]> {
    const records: BlobRecord[] = []
    for (const blob of staged) records.push(await this.#keep(blob, signal))
    return records
  }

  async #keep(blob: StagedBlob, signal: AbortSignal): Promise<BlobRecord> {
    for (;;) {
      const { record, isProven } = await this.#place(blob)
      if (isProven) return record
      // Outside the lock: other publications of this content need not wait for it.
      if (await this.#isSound(record.key, blob.sums, signal)) return this.#share(blob, record)
    }
  }

  /**
   * A blob with the content of a staged one: the staged blob itself if there is no other. A blob from an earlier publication is still to be proven.
   */
  async #place(blob: StagedBlob): Promise<{ record: BlobRecord; isProven: boolean }> {
    await using _turn = await this.#locks.acquire(blob.sha256)
    // Fresh ones first: a blob that stops being fresh is in the catalog by then.
    const known = this.#kept.get(blob.sha256) ?? (await this.#takeFresh(blob))
    if (known) return { record: await this.#share(blob, known), isProven: true }
    const stored = await this.#findStored(blob)
    if (stored) return { record: stored, isProven: false }
    // Awaited here: the lock is released at the end of this block.
    return { record: await this.#keepFresh(blob), isProven: true }
  }

  async #share(blob: StagedBlob, stored: BlobRecord): Promise<BlobRecord> {
    this.#staged.delete(blob)
    await blob.staged.abort()
    this.#kept.set(stored.sha256, stored)
    this.#sums.set(stored.key, blob.sums)
    return stored
  }

  async #takeFresh({ sha256 }: BlobRecord): Promise<BlobRecord | null> {
    const fresh = this.#fresh.take(sha256)
    if (!fresh) return null
    this.#shared.push(fresh)
    this.#held.use(await this.#pins.hold([fresh.key]))
    return fresh
  }

  async #keepFresh(blob: StagedBlob): Promise<BlobRecord> {
    const record = await this.#keepNew(blob)
    this.#ours.delete(record.key)
    this.#shared.push(record)
    this.#fresh.add(record)
    return record
  }

  async #keepNew(blob: StagedBlob): Promise<BlobRecord> {
    await this.#commit(blob)
    const { key, sha256, size } = blob
    const record = { key, sha256, size }
    this.#kept.set(sha256, record)
    return record
  }

  /** Commits a staged blob that is needed only until the end of this publication. */
  async keepTemporarily(blob: StagedBlob): Promise<string> {
    await this.#commit(blob)
    return blob.key
  }

  /** Rejects if the caller may no longer publish. */
  authorize(): Promise<void> {
    return this.#authorized()
  }

  /** Stages and commits bytes that belong to this model alone, in pieces, under `key`. */
  async keepBytes(
    key: string,
    pieces: readonly Uint8Array[],
    signal: AbortSignal,
  ): Promise<BlobRecord> {
    return this.#keepNew(await this.stage(each(pieces), signal, key))
  }

  /**
   * Inserts the row, if it is still allowed: from here on the model is visible and its blobs are the catalog's. Rejects `store-in-use` if another
   * registry has taken over the store: it may have looked for manifests before this model's was there.
   */
  async commit(record: ModelRecord): Promise<void> {
    await this.authorize()
    await this.#lease.confirm()
    await this.#catalog.insertModel(record, this.kept)
    this.#fresh.settle(this.#shared)
    for (const { key } of this.kept) this.#ours.delete(key)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#staged].map(blob => blob.staged.abort()))
    await this.#deleteOurs()
    await this.#held.disposeAsync()
  }

  async #deleteOurs(): Promise<void> {
    const isGone = await this.#drop([...this.#ours])
    // After the manifest that names them is gone.
    const dropped = this.#fresh.release(this.#shared)
    if (isGone) await this.#drop(dropped.map(({ key }) => key))
  }

  /**
   * Deletes blobs as a sweep does: a row that could not be inserted must not come back without its blobs, nor be made again from its manifest.
   * False for a failure: the sweep deletes what is left.
   */
  async #drop(keys: readonly string[]): Promise<boolean> {
    if (keys.length === 0) return true
    try {
      await this.#catalog.forgetBlobs(keys)
      await deleteBlobs({ blobs: this.#blobs, lease: this.#lease }, keys)
      return true
    } catch {
      // Without this note the sweep would take the manifest for a model's.
      for (const key of keys) if (kindOf(key) === 'manifests') this.#abandoned.add(key)
      return false
    }
  }

  /** A stored blob of this content. It is pinned first and looked up after that, so that no sweep comes in between. */
  async #findStored({ sha256, size }: BlobRecord): Promise<BlobRecord | null> {
    const stored = await this.#catalog.findBlob(sha256, size)
    if (!stored) return null
    this.#held.use(await this.#pins.hold([stored.key]))
    return (await this.#catalog.hasBlob(stored.key)) ? stored : null
  }

  async #commit(blob: StagedBlob): Promise<void> {
    const { key, staged, sums } = blob
    this.#held.use(await this.#pins.hold([key]))
    this.#ours.add(key)
    await staged.commit()
    this.#staged.delete(blob)
    this.#sums.set(key, sums)
  }
}

async function* seen(
  body: AsyncIterable<Uint8Array>,
  hash: { update(bytes: Uint8Array): unknown },
  summer: BlockSummer,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of body) {
    hash.update(chunk)
    summer.push(chunk)
    yield chunk
  }
}

async function* each(pieces: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* pieces
}
