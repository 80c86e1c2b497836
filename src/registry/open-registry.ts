import type { Catalog } from '../catalog/catalog.ts'
import type { BlobStore } from '../storage/blob-store.ts'
import { type Room, UNLIMITED } from '../storage/disk-room.ts'
import { isNear } from '../storage/near-store.ts'
import { BufferPool } from '../workers/buffer-pool.ts'
import { Engine } from '../workers/engine.ts'
import type { Pool } from '../workers/pool.ts'
import { Damages } from './care/damage.ts'
import { recoverStore } from './care/recover.ts'
import { Strays } from './care/strays.ts'
import type { Core } from './core.ts'
import { careMethods } from './groups/care.ts'
import { modelMethods } from './groups/models.ts'
import { publishMethods } from './groups/publish.ts'
import { tokenMethods } from './groups/tokens.ts'
import type { Holds } from './holds/holds.ts'
import { processHolds } from './holds/in-process.ts'
import { Lease, type LeaseOptions } from './holds/lease.ts'
import type { Log } from './log.ts'
import { modelBlobs, storedBlobs } from './models/blob-source.ts'
import { openBytesWithin } from './models/open-budget.ts'
import { OpenedModels } from './models/opened-models.ts'
import type { Registry } from './registry.ts'
import { translateAll, translated } from './translate.ts'

export interface RegistryDeps {
  readonly catalog: Catalog
  readonly blobs: BlobStore
  readonly pool: Pool
  /** Folder for temporary files; needs room for a copy of the catalog. */
  readonly scratch: string
  /** Room of the disk that the catalog is on. Without it, the disk may fill up unnoticed. */
  readonly room?: Room | undefined
  /** Milliseconds before leftovers of an upload are swept. One hour if absent. */
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

/** Batches under way for each worker: one computes while the bytes of the next are read. */
const BATCHES_PER_WORKER = 2
/** Most batches of 2 MiB that all downloads together prefetch. */
const MAX_PREFETCHED = 8
/** Streams if `maxStreams` is absent. */
const DEFAULT_STREAMS = 96
/** Buffers in addition to one for each stream: for prefetched batches and for publications. */
const SPARE_BUFFERS = 32

/**
 * Opens the registry over its parts: takes the lease, brings catalog and store together, and sweeps leftovers of uploads. The caller
 * closes it and then its parts. Rejects with RegistryError if the catalog or the blob store do not answer, or do
 * not belong together, and `store-in-use` if another registry uses the store.
 */
export async function openRegistry(deps: RegistryDeps): Promise<Registry> {
  const { blobs, scratch, log, room = UNLIMITED } = deps
  const { sweepGraceMs: graceMs = SWEEP_GRACE_MS, maxModelBytes = Number.MAX_SAFE_INTEGER } = deps
  await using opening = new AsyncDisposableStack()
  const lease = opening.use(
    await translated(() => room.lend(() => Lease.take(blobs, { ...deps.lease, log }))),
  )
  const core = await assemble(deps, room, lease)
  const { engine, damages } = core
  const sweeping = { ...core, graceMs }
  await translated(async () => {
    await recoverStore(sweeping)
    // Learns the newest time now, adopted models among them: that one may be deleted before the first publication.
    await core.holds.clock.next()
  })
  const parts = opening.move()
  return {
    models: translateAll(modelMethods(core)),
    publish: translateAll(publishMethods(core, maxModelBytes)),
    care: translateAll(careMethods(core, sweeping, scratch)),
    tokens: translateAll(tokenMethods(core)),
    figures: () => ({
      badBlocks: damages.badBlocks,
      tasks: engine.busy,
      cache: isNear(blobs) ? blobs.cache : null,
      spareBytes: engine.spareBytes,
    }),
    close: () => parts.disposeAsync(),
  }
}

/** Makes what the groups of methods share. */
async function assemble(deps: RegistryDeps, room: Room, lease: Lease): Promise<Core> {
  const { catalog, blobs, log, openBytes = openBytesWithin(0) } = deps
  const holds = await holdsOf(catalog)
  const damages = new Damages({ catalog, blobs, room, badBlobs: holds.badBlobs })
  const storedEngine = engineOf(deps)
  const engine = storedEngine.over(modelBlobs(blobs, damages))
  const warn = (id: string) =>
    log?.warn(
      { id },
      'the row of a model is not what its manifest says: wdelta rebuild makes it anew',
    )
  const models = new OpenedModels(catalog, engine.source, openBytes, warn)
  const [strays, abandoned] = [new Strays(log), new Set<string>()]
  const stores = { catalog, blobs, room, lease }
  return { ...stores, holds, engine, storedEngine, models, damages, strays, abandoned, log }
}

async function holdsOf(catalog: Catalog): Promise<Holds> {
  const bad = (await catalog.damagedBlobs()).map(({ key }) => key)
  const newest = async () => (await catalog.list({ limit: 1 })).models[0]?.createdAt ?? null
  return processHolds({ newest, bad })
}

/** The engine of this process, over the store itself. */
function engineOf({ blobs, pool, maxStreams = DEFAULT_STREAMS }: RegistryDeps): Engine {
  return Engine.over(storedBlobs(blobs), {
    pool,
    buffers: new BufferPool(maxStreams + SPARE_BUFFERS),
    batchesPerWorker: BATCHES_PER_WORKER,
    prefetched: MAX_PREFETCHED,
  })
}
