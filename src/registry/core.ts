import type { Catalog } from '../catalog/catalog.ts'
import type { BlobStore } from '../storage/blob-store.ts'
import type { Room } from '../storage/disk-room.ts'
import type { Engine } from '../workers/engine.ts'
import type { Damages } from './care/damage.ts'
import type { Strays } from './care/strays.ts'
import type { Holds } from './holds/holds.ts'
import type { Lease } from './holds/lease.ts'
import type { Log } from './log.ts'
import type { OpenedModels } from './models/opened-models.ts'

/** What the groups of the registry's methods share. */
export interface Core {
  readonly catalog: Catalog
  readonly blobs: BlobStore
  readonly room: Room
  readonly lease: Lease
  readonly holds: Holds
  /** Reads the blobs of models. A bad blob is replaced by its stand-in. */
  readonly engine: Engine
  /** Reads blobs from the store itself, past any cache. */
  readonly storedEngine: Engine
  readonly models: OpenedModels
  readonly damages: Damages
  readonly strays: Strays
  /** Manifests of failed publications that could not be deleted at once. The sweep deletes them. */
  readonly abandoned: Set<string>
  readonly log: Log | undefined
}
