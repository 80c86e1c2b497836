import type { BlobInfo, BlobStore, ByteRange, CacheFigures, Staged } from './blob-store.ts'
import { type ChunkName, DiskChunks } from './disk-chunks.ts'

/** What is fetched at once: long enough for the time to the first byte not to count. */
export const CHUNK_BYTES = 2 * 1024 * 1024
/** Chunks that stay in memory for a moment: neighbouring reads meet in one, and disks are slower than that. */
const IN_MEMORY = 24
/** Chunks that are fetched before they are asked for, where a blob is read from one end to the other. */
const AHEAD = 6
/** Blobs whose sizes are remembered. */
const SIZES = 10_000
/** Chunks that wait to be written: where the disk is slower than what they come from, some are not kept. */
const WRITES = 8

/**
 * A store that is far away, with what was read of it last in a folder of this machine, up to `mostBytes`. Reads come from there where they
 * can, in whole chunks from afar where they cannot, and ahead of a reader that goes through a blob. Bytes are not checked here: who finds them
 * wrong says so by `evict`.
 */
export async function openCachedBlobStore(
  store: BlobStore,
  folder: string,
  mostBytes: number,
): Promise<BlobStore> {
  return new ChunkCache(store, await DiskChunks.open(folder, mostBytes))
}

class ChunkCache implements BlobStore {
  readonly origin: BlobStore
  readonly #disk: DiskChunks
  /** Chunks that are fetched, or were a moment ago, in the order of their last use. */
  readonly #memory = new Map<string, Promise<Uint8Array>>()
  readonly #sizes = new Map<string, Promise<number>>()
  readonly #writes = new Map<string, Promise<void>>()
  readonly #closed = new AbortController()
  #hits = 0
  #misses = 0
  #corrupt = 0

  constructor(store: BlobStore, disk: DiskChunks) {
    this.origin = store
    this.#disk = disk
  }

  get cache(): CacheFigures {
    const { bytes } = this.#disk
    return { hits: this.#hits, misses: this.#misses, corrupt: this.#corrupt, bytes }
  }

  stage(key: string, body: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<Staged> {
    return this.origin.stage(key, body, signal)
  }

  async read(
    key: string,
    { start, end }: ByteRange,
    signal?: AbortSignal,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const isRange = Number.isSafeInteger(start) && Number.isSafeInteger(end)
    const size = isRange && start >= 0 && start < end ? await this.size(key) : null
    // What is no range of the blob is the store's to refuse.
    if (size === null || end > size) return this.origin.read(key, { start, end }, signal)
    const bytes = new Uint8Array(Buffer.allocUnsafeSlow(end - start).buffer)
    const first = Math.floor(start / CHUNK_BYTES)
    const last = Math.floor((end - 1) / CHUNK_BYTES)
    const isGoingOn = this.#memory.has(idOf({ key, index: first === 0 ? 0 : first - 1 }))
    const parts = Array.from({ length: last - first + 1 }, (_, i) =>
      this.#copy({ key, index: first + i }, size, start, bytes),
    )
    if (isGoingOn || first === 0) this.#fetchAhead(key, last + 1, size)
    await withSignal(Promise.all(parts), signal)
    return bytes
  }

  locate(key: string): string | null {
    return this.origin.locate(key)
  }

  /** Blobs never change, and so do their sizes. */
  size(key: string): Promise<number> {
    const known = this.#sizes.get(key)
    if (known) return known
    const size = this.origin.size(key)
    this.#sizes.set(key, size)
    size.catch(() => this.#sizes.delete(key))
    if (this.#sizes.size > SIZES) this.#sizes.delete(this.#sizes.keys().next().value!)
    return size
  }

  list(prefix: string): AsyncIterable<BlobInfo> {
    return this.origin.list(prefix)
  }

  async delete(keys: readonly string[]): Promise<void> {
    await this.origin.delete(keys)
    for (const key of keys) {
      this.#sizes.delete(key)
      for (const id of [...this.#memory.keys()]) {
        if (id.startsWith(`${key}/`)) this.#memory.delete(id)
      }
      // What is written now would come back.
      for (const [id, write] of this.#writes) if (id.startsWith(`${key}/`)) await write
      await this.#disk.dropBlob(key)
    }
  }

  async evict(key: string, offset: number): Promise<void> {
    const name = { key, index: Math.floor(offset / CHUNK_BYTES) }
    this.#sizes.delete(key)
    const wasHeld = this.#memory.delete(idOf(name))
    // What is written now would come back.
    await this.#writes.get(idOf(name))
    if ((await this.#disk.drop(name)) || wasHeld) this.#corrupt++
    await this.origin.evict(key, offset)
  }

  sweepStaged(before: Date, dryRun: boolean): Promise<BlobInfo[]> {
    return this.origin.sweepStaged(before, dryRun)
  }

  async close(): Promise<void> {
    this.#closed.abort(new DOMException('The store was closed', 'AbortError'))
    await Promise.allSettled(this.#memory.values())
    await Promise.all(this.#writes.values())
    await this.origin.close()
  }

  /** Copies what `into`, which begins at byte `start` of the blob, has of a chunk. */
  async #copy(name: ChunkName, size: number, start: number, into: Uint8Array): Promise<void> {
    const begin = name.index * CHUNK_BYTES
    const from = Math.max(start, begin)
    const to = Math.min(start + into.length, begin + CHUNK_BYTES)
    const target = into.subarray(from - start, to - start)
    const isHeld = this.#memory.has(idOf(name))
    if (!isHeld && (await this.#disk.read(name, from - begin, target))) {
      this.#hits++
      return
    }
    // Looked for once more: meanwhile another reader may have begun to fetch it.
    const held = this.#memory.get(idOf(name))
    if (held) this.#hits++
    else this.#misses++
    const chunk = await (held ?? this.#fetch(name, size))
    target.set(chunk.subarray(from - begin, to - begin))
  }

  /** Begins to fetch chunks from `first` on that a reader who goes through the blob will ask for. */
  #fetchAhead(key: string, first: number, size: number): void {
    const end = Math.min(first + AHEAD, Math.ceil(size / CHUNK_BYTES))
    for (let index = first; index < end; index++) {
      const name = { key, index }
      if (this.#memory.has(idOf(name)) || this.#disk.has(name)) continue
      // It is told where it is asked for.
      this.#fetch(name, size).catch(() => {})
    }
  }

  /** Not bound to the request that asks first: others may wait for the same chunk, and soon will. */
  #fetch(name: ChunkName, size: number): Promise<Uint8Array> {
    const id = idOf(name)
    const start = name.index * CHUNK_BYTES
    const end = Math.min(start + CHUNK_BYTES, size)
    const chunk = this.origin.read(name.key, { start, end }, this.#closed.signal)
    this.#hold(id, chunk)
    chunk.then(
      bytes => {
        // Not if it was forgotten meanwhile: the blob may be gone.
        if (this.#memory.get(id) === chunk) this.#keep(name, bytes)
      },
      () => this.#memory.delete(id),
    )
    return chunk
  }

  #hold(id: string, chunk: Promise<Uint8Array>): void {
    this.#memory.set(id, chunk)
    for (const oldest of this.#memory.keys()) {
      if (this.#memory.size <= IN_MEMORY) return
      this.#memory.delete(oldest)
    }
  }

  #keep(name: ChunkName, bytes: Uint8Array): void {
    if (this.#writes.size >= WRITES) return
    const write = this.#disk.write(name, bytes)
    this.#writes.set(idOf(name), write)
    void write.then(() => this.#writes.delete(idOf(name)))
  }
}

function idOf({ key, index }: ChunkName): string {
  return `${key}/${index}`
}

/** What `work` gives, unless the signal aborts first; the work itself goes on. */
async function withSignal<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work
  signal.throwIfAborted()
  const { promise, reject } = Promise.withResolvers<never>()
  const abort = () => reject(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  try {
    return await Promise.race([work, promise])
  } finally {
    signal.removeEventListener('abort', abort)
    // Whichever came second.
    work.catch(() => {})
  }
}
