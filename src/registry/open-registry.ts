import type { Catalog, ModelRecord } from '../catalog/catalog.ts'
import type { BlobStore } from '../storage/blob-store.ts'
import { type Room, UNLIMITED } from '../storage/disk-room.ts'
import { BufferPool } from '../workers/buffer-pool.ts'
import { Engine } from '../workers/engine.ts'
import { collectGarbage } from '../workers/garbage.ts'
import type { Pool } from '../workers/pool.ts'
import { inTurns } from '../workers/turns.ts'
import { backup } from './care/backup.ts'
import { confirmDamage, Damages } from './care/damage.ts'
import { Readiness } from './care/readiness.ts'
import { recoverStore } from './care/recover.ts'
import { scrub } from './care/scrub.ts'
import { Strays } from './care/strays.ts'
import { sweep } from './care/sweep.ts'
import { deleteModel } from './care/tombstones.ts'
import { firstBadByte } from './care/verify.ts'
import { Clock } from './holds/clock.ts'
import { deleteBlobs, type OwnedStore } from './holds/delete-blobs.ts'
import { KeyedLocks } from './holds/keyed-locks.ts'
import { Lease, type LeaseOptions } from './holds/lease.ts'
import { Pins } from './holds/pins.ts'
import type { Log } from './log.ts'
import { modelBlobs, storedBlobs } from './models/blob-source.ts'
import { deltaContent, fileContent, reconstructContent, tensorContent } from './models/contents.ts'
import { holdModel } from './models/hold-model.ts'
import { inspectModel, listTensors } from './models/inspect.ts'
import { openBytesWithin } from './models/open-budget.ts'
import { type OpenedModel, OpenedModels } from './models/opened-models.ts'
import { ShownModels, toModel } from './models/shown-models.ts'
import { manifestKey } from './models/true-records.ts'
import { publishDelta } from './publish/delta.ts'
import { publishFiles } from './publish/files.ts'
import { FreshBlobs } from './publish/fresh-blobs.ts'
import type { PublicationDeps } from './publish/publication.ts'
import type { PublishDeps } from './publish/publish.ts'
import { findRef } from './refs.ts'
import type { Content, Registry } from './registry.ts'
import { authenticate, createToken, toToken } from './tokens.ts'
import { translated } from './translate.ts'

export interface RegistryDeps {
  readonly catalog: Catalog
  readonly blobs: BlobStore
  readonly pool: Pool
  /** Folder for files of a moment: it has room for a copy of the catalog. */
  readonly scratch: string
  /** Of the disk that the catalog is on; without it, nobody looks after that. */
  readonly room?: Room | undefined
  /** What an upload left is not swept before it is so old, in milliseconds. */
  readonly sweepGraceMs?: number | undefined
  /**
   * Most bytes of all safetensors files of a model that a `.wdelta` describes: what could be uploaded as files. Any number if absent.
   */
  readonly maxModelBytes?: number | undefined
  /** Downloads that may be under way at once: each holds a chunk of 2 MiB until its client has taken it. 96 if absent. */
  readonly maxStreams?: number | undefined
  /** Memory that models may take while they are open, in bytes of an estimate; undefined: see {@link openBytesWithin}. */
  readonly openBytes?: number | undefined
  readonly lease?: Partial<LeaseOptions> | undefined
  readonly log?: Log | undefined
}

const SWEEP_GRACE_MS = 3_600_000

/** Batches under way per worker: one computes while the bytes of the next are read. */
const BATCHES_PER_WORKER = 2
/** Batches of 2 MiB that all downloads together have made before they are asked for. */
const MAX_PREFETCHED = 8
/** Streams where `maxStreams` is not given. */
const DEFAULT_STREAMS = 96
/** Buffers beside one for each stream: for what is made ahead, and for what publications read. */
const SPARE_BUFFERS = 32

/**
 * The registry over its parts, after it has taken up what the store has and the catalog lacks, and swept what uploads left. The caller
 * closes it and then its parts when it is no longer used. Rejects with RegistryError if the catalog or the blob store do not answer, or do
 * not belong together, and `store-in-use` if another registry uses the store.
 */
export async function openRegistry(registryDeps: RegistryDeps): Promise<Registry> {
  const { catalog, blobs, pool, scratch, room = UNLIMITED } = registryDeps
  const { sweepGraceMs: graceMs = SWEEP_GRACE_MS, log } = registryDeps
  const { maxModelBytes = Number.MAX_SAFE_INTEGER, maxStreams = DEFAULT_STREAMS } = registryDeps
  await using opening = new AsyncDisposableStack()
  const lease = opening.use(
    await translated(() => room.lend(() => Lease.take(blobs, { ...registryDeps.lease, log }))),
  )
  const damages = await Damages.open(catalog, blobs, room)
  // Of what is stored, not of copies of it: scrub looks at that.
  const direct = Engine.over(storedBlobs(blobs), {
    pool,
    buffers: new BufferPool(maxStreams + SPARE_BUFFERS),
    batchesPerWorker: BATCHES_PER_WORKER,
    prefetched: MAX_PREFETCHED,
  })
  const engine = direct.over(modelBlobs(blobs, damages))
  const pins = new Pins()
  const locks = new KeyedLocks()
  const fresh = new FreshBlobs()
  const mostOpenBytes = registryDeps.openBytes ?? openBytesWithin(0)
  const models = new OpenedModels(catalog, engine.source, mostOpenBytes, id => {
    log?.warn(
      { id },
      'the row of a model is not what its manifest says: wdelta rebuild makes it anew',
    )
  })
  const shown = new ShownModels(catalog, models)
  const abandoned = new Set<string>()
  const strays = new Strays(log)
  const sweeping = { catalog, blobs, lease, pins, locks, room, strays, abandoned, graceMs }
  await translated(() => recoverStore({ ...sweeping, damages, log }))
  const [newest] = (await catalog.list({ limit: 1 })).models
  const clock = new Clock(newest?.createdAt ?? null)
  const isSound: PublicationDeps['isSound'] = async (key, sums, signal) => {
    const bad = await firstBadByte(direct, key, sums, signal)
    if (bad !== null) await damages.mark(key, bad)
    return bad === null
  }
  const publishing = { catalog, blobs, lease, pins, locks, fresh, abandoned, isSound, models }
  const deps: PublishDeps = { ...publishing, engine, clock, maxModelBytes }
  const open = async (ref: string) => models.open(await findRef(catalog, ref))
  const published = (publish: () => Promise<ModelRecord>) =>
    translated(async () => {
      lease.check()
      try {
        return toModel(await room.use(publish))
      } catch (error) {
        await confirmDamage({ catalog, models, source: engine.source }, error)
        throw error
      }
    })
  const contentOf = <T extends Content>(
    ref: string,
    make: (model: OpenedModel) => T | Promise<T>,
  ) =>
    translated(async () => {
      const model = await open(ref)
      return pinned({ catalog, pins, models }, model, await make(model))
    })
  const readiness = new Readiness(catalog, blobs, room)

  const parts = opening.move()
  return {
    publishFiles: (options, parts, signal) =>
      published(() => publishFiles(deps, options, parts, signal)),
    publishDelta: (options, parts, signal) =>
      published(() => publishDelta(deps, options, parts, signal)),
    find: ref => translated(async () => shown.one(await findRef(catalog, ref))),
    list: query =>
      translated(async () => {
        const { models: records, next } = await catalog.list(withoutUndefined(query))
        return { models: await shown.page(records), next }
      }),
    lineage: (ref, page) =>
      translated(async () => {
        const { id } = await findRef(catalog, ref)
        const { models: records, next } = await catalog.lineage(id, withoutUndefined(page))
        return { lineage: await shown.page(records), next }
      }),
    children: (ref, page) =>
      translated(async () => {
        const { id } = await findRef(catalog, ref)
        const query = { ...withoutUndefined(page), parent: id }
        const { models: records, next } = await catalog.list(query)
        return { models: await shown.page(records), next }
      }),
    remove: ref =>
      translated(async () => {
        const record = await findRef(catalog, ref)
        await room.lend(() => removeModel({ catalog, blobs, lease, locks }, record))
        models.close(record.id)
      }),
    tensors: ref => translated(async () => inTurns(listTensors(await open(ref)))),
    inspect: ref => translated(async () => inTurns(inspectModel(await open(ref)))),
    openReconstruct: (ref, dtype) =>
      contentOf(ref, async model => {
        const cast = dtype && { dtype, layout: await models.castLayout(model, dtype) }
        return reconstructContent(engine, model, cast ?? null)
      }),
    openFile: (ref, path) => contentOf(ref, model => fileContent(engine, model, path)),
    openTensor: (ref, name) => contentOf(ref, model => tensorContent(engine, model, name)),
    openDelta: ref => contentOf(ref, model => deltaContent(engine, model)),
    stats: () =>
      translated(async () => {
        const stats = await catalog.stats()
        return { ...stats, savedBytes: stats.logicalBytes - stats.storedBytes }
      }),
    scrub: options =>
      translated(() => scrub({ catalog, engine: direct, models, damages }, options)),
    badBlocks: () => damages.badBlocks,
    tasks: () => engine.busy,
    cache: () => blobs.cache,
    sweep: ({ dryRun }) => translated(() => sweep(sweeping, dryRun)),
    backup: () => translated(() => backup(catalog, scratch)),
    createToken: options => translated(() => createToken(catalog, options)),
    listTokens: page =>
      translated(async () => {
        const { tokens, next } = await catalog.listTokens(withoutUndefined(page))
        return { tokens: tokens.map(toToken), next }
      }),
    revokeToken: id => translated(() => room.lend(() => catalog.deleteToken(id))),
    authenticate: token => translated(() => authenticate(catalog, token)),
    spareBytes: () => engine.spareBytes,
    trim: () =>
      translated(async () => {
        models.closeAll()
        blobs.trim()
        await engine.trim()
        collectGarbage()
      }),
    ready: () =>
      translated(async () => {
        lease.check()
        await readiness.check()
      }),
    close: () => parts.disposeAsync(),
  }
}

/** Deletes a model, and its manifest at once: a catalog that is made again from the store must not find it. */
async function removeModel(
  stores: OwnedStore & { catalog: Catalog; locks: KeyedLocks },
  record: ModelRecord,
): Promise<void> {
  const { catalog, lease } = stores
  const manifest = manifestKey(record)
  await lease.confirm()
  await deleteModel(stores, record)
  // What fails here, the sweep does.
  await deleteBlobs(stores, [manifest])
    .then(() => catalog.forgetBlobs([manifest]))
    .catch(() => {})
}

/** A content whose bytes stay until they have been read, also if its model is deleted meanwhile. */
function pinned<T extends Content>(
  stores: { catalog: Catalog; pins: Pins; models: OpenedModels },
  model: OpenedModel,
  content: T,
): T {
  return {
    ...content,
    async *open(range, signal) {
      using _open = stores.models.hold(model)
      using _held = await holdModel(stores, model)
      yield* content.open(range, signal)
    },
  }
}

/** Without the keys that are undefined: what `exactOptionalPropertyTypes` asks for. */
function withoutUndefined<T extends object>(
  query: T,
): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(query).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>
  }
}
