import type { ByteRange } from '../../../src/codec/base/ranges.ts'
import type { BlobStore } from '../../../src/storage/blob-store.ts'
import { openFolderBlobStore } from '../../../src/storage/folder/blob-store.ts'

/** A store that no worker can reach by itself, as a bucket is none, and that keeps account of its reads. */
export interface StoreAfar extends BlobStore {
  /** The ranges that were read, in the order in which they were asked for. */
  readonly reads: readonly ByteRange[]
  /** Called for each read before it is answered; what it throws is the answer. */
  onRead: (range: ByteRange) => Promise<void> | void
}

/** Opens a store in a folder as one that is far away. */
export async function openStoreAfar(folder: string): Promise<StoreAfar> {
  const store = await openFolderBlobStore(folder)
  const reads: ByteRange[] = []
  const afar: StoreAfar = {
    reads,
    onRead: () => {},
    stage: (key, body, signal) => store.stage(key, body, signal),
    read: async (key, range, signal, into) => {
      reads.push(range)
      await afar.onRead(range)
      return store.read(key, range, signal, into)
    },
    locate: () => null,
    size: key => store.size(key),
    list: (prefix, isWanted) => store.list(prefix, isWanted),
    delete: keys => store.delete(keys),
    sweepStaged: (before, dryRun) => store.sweepStaged(before, dryRun),
    trim: () => {},
    close: () => store.close(),
  }
  return afar
}
