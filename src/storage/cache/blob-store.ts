import type { ByteRange, LocalFile } from '../../codec/base/ranges.ts'
import type { BlobInfo, BlobStore, Staged } from '../blob-store.ts'
import type { CacheFigures, NearStore } from '../near-store.ts'
import { type ChunkName, DiskChunks } from './disk-chunks.ts'

/** Bytes of a chunk, the unit that is fetched and kept as one file. */
export const CHUNK_BYTES = 2 * 1024 * 1024
/** Most neighbouring chunks that one request fetches: a request for a few costs as much as one for one. */
const RUN_CHUNKS = 4
/** Chunks that are prefetched for a reader that goes through a blob. */
const CHUNKS_AHEAD = 12
/** Most prefetching requests under way, over all readers. */
const MAX_RUNS_AHEAD = 8
/**
 * Most requests under way, each into a buffer that is reused: new buffers would set off collections of the whole heap. More than `MAX_RUNS_AHEAD`,
 * so that a reader never waits for prefetching alone.
 */
const MAX_RUNS = 12
/** Chunks remembered as read lately: a reader that asks for the next one is going through the blob. */
const MAX_RECENT = 1000
/** Blobs whose sizes are remembered. */
const MAX_SIZES = 10_000

/**
 * A remote store behind a cache of up to `mostBytes` bytes in a local folder. Reads are answered from whole chunks, which are fetched if missing,
 * and prefetched for a reader that goes through a blob. Bytes are not checked here: a reader that finds them wrong calls `evict`. If the folder
 * takes no bytes, reads go to the store.
 */
export async function openCachedBlobStore(
  store: BlobStore,
  folder: string,
  mostBytes: number,
): Promise<NearStore> {
  return new ChunkCache(store, await DiskChunks.open(folder, mostBytes))
}

class ChunkCache implements NearStore {
  readonly upstream: BlobStore
  readonly #disk: DiskChunks
  /** By chunk: resolves once it is in the folder, or the folder has not taken it; rejects as the store does. */
  readonly #fetching = new Map<string, Promise<void>>()
  readonly #recent = new Set<string>()
  readonly #sizes = new Map<string, Promise<number>>()
  readonly #closed = new AbortController()
  /** By chunk: how many readers wait for it. */
  readonly #wanted = new Map<string, number>()
  readonly #buffers: Uint8Array<ArrayBuffer>[] = []
  readonly #forBuffer: ((buffer: Uint8Array<ArrayBuffer>) => void)[] = []
  #runs = 0
  #runsAhead = 0
  #hits = 0
  #misses = 0
  #corrupt = 0

  constructor(store: BlobStore, disk: DiskChunks) {
    this.upstream = store
    this.#disk = disk
  }

  get cache(): CacheFigures {
    const { bytes } = this.#disk
    return { hits: this.#hits, misses: this.#misses, corrupt: this.#corrupt, bytes }
  }

  stage(key: string, body: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<Staged> {
    return this.upstream.stage(key, body, signal)
  }

  async read(
    key: string,
    range: ByteRange,
    signal?: AbortSignal,
    into?: Uint8Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const chunks = await this.#bring(key, range, signal)
    if (chunks) {
      const size = range.end - range.start
      const bytes = into?.subarray(0, size) ?? new Uint8Array(Buffer.allocUnsafeSlow(size).buffer)
      const reads = chunks.map(({ index }) => {
        const begin = index * CHUNK_BYTES
        const from = Math.max(range.start, begin)
        const into = bytes.subarray(from - range.start, begin + CHUNK_BYTES - range.start)
        return this.#disk.read({ key, index }, from - begin, into)
      })
      if ((await Promise.all(reads)).every(Boolean)) return bytes
    }
    return this.upstream.read(key, range, signal, into)
  }

  async fetch(
    key: string,
    range: ByteRange,
    signal?: AbortSignal,
  ): Promise<Uint8Array<ArrayBuffer> | LocalFile[]> {
    const files: LocalFile[] = []
    for (const name of (await this.#bring(key, range, signal)) ?? []) {
      const path = this.#disk.path(name)
      if (path !== null) files.push({ path, start: name.index * CHUNK_BYTES })
    }
    return files.length > 0 ? files : this.upstream.read(key, range, signal)
  }

  locate(): null {
    return null
  }

  /** Remembered, as blobs never change. */
  size(key: string): Promise<number> {
    const known = this.#sizes.get(key)
    if (known) return known
    const size = this.upstream.size(key)
    this.#sizes.set(key, size)
    size.catch(() => this.#sizes.delete(key))
    if (this.#sizes.size > MAX_SIZES) this.#sizes.delete(this.#sizes.keys().next().value!)
    return size
  }

  list(prefix: string, isWanted?: (key: string) => boolean): AsyncIterable<BlobInfo> {
    return this.upstream.list(prefix, isWanted)
  }

  async delete(keys: readonly string[]): Promise<void> {
    await this.upstream.delete(keys)
    for (const key of keys) {
      this.#sizes.delete(key)
      // A chunk that is being fetched would come back.
      const under = [...this.#fetching].filter(([id]) => id.startsWith(`${key}/`))
      await Promise.allSettled(under.map(([, fetched]) => fetched))
      await this.#disk.dropBlob(key)
    }
  }

  async evict(key: string, offset: number): Promise<void> {
    const name = { key, index: Math.floor(offset / CHUNK_BYTES) }
    this.#sizes.delete(key)
    await this.#fetching.get(idOf(name))?.catch(() => {})
    if (await this.#disk.drop(name)) this.#corrupt++
  }

  sweepStaged(before: Date, dryRun: boolean): Promise<BlobInfo[]> {
    return this.upstream.sweepStaged(before, dryRun)
  }

  trim(): void {
    this.#runs -= this.#buffers.length
    this.#buffers.length = 0
    this.upstream.trim()
  }

  async close(): Promise<void> {
    this.#closed.abort(new DOMException('The store was closed', 'AbortError'))
    await Promise.allSettled(this.#fetching.values())
    await this.upstream.close()
  }

  /** Brings the chunks of a range into the folder. Null if they are not there then, or the blob does not have that range. */
  async #bring(
    key: string,
    { start, end }: ByteRange,
    signal: AbortSignal | undefined,
  ): Promise<ChunkName[] | null> {
    signal?.throwIfAborted()
    const isRange = Number.isSafeInteger(start) && Number.isSafeInteger(end)
    if (!isRange || start < 0 || start >= end || !this.#disk.isTaking) return null
    const size = await this.size(key)
    // The store refuses it in its own words.
    if (end > size) return null
    const first = Math.floor(start / CHUNK_BYTES)
    const last = Math.floor((end - 1) / CHUNK_BYTES)
    const chunks = Array.from({ length: last - first + 1 }, (_, i) => ({ key, index: first + i }))
    const missing = chunks.filter(name => !this.#disk.touch(name))
    this.#hits += chunks.length - missing.length
    this.#misses += missing.length
    const waited = this.#fetch(missing, size)
    if (this.#isGoingThrough(key, first, last)) this.#fetchAhead(key, last + 1, size)
    if (missing.length === 0) return chunks
    const ids = missing.map(idOf)
    for (const id of ids) this.#want(id, 1)
    try {
      await withSignal(Promise.all(waited), signal)
    } finally {
      for (const id of ids) this.#want(id, -1)
    }
    return chunks.every(name => this.#disk.has(name)) ? chunks : null
  }

  /** One promise for each chunk of a blob, in order; those that are not being fetched already are from here on. */
  #fetch(names: readonly ChunkName[], size: number): Promise<void>[] {
    let run: ChunkName[] = []
    for (const name of names) {
      if (this.#fetching.has(idOf(name))) continue
      if (run.length === RUN_CHUNKS || (run.length > 0 && run.at(-1)!.index + 1 !== name.index)) {
        void this.#fetchRun(run, size)
        run = []
      }
      run.push(name)
    }
    if (run.length > 0) void this.#fetchRun(run, size)
    return names.map(name => this.#fetching.get(idOf(name))!)
  }

  /** Fetches neighbouring chunks. Goes on if the reader that asked first stops waiting: others may wait too. */
  #fetchRun(names: readonly ChunkName[], size: number): Promise<void> {
    const start = names[0]!.index * CHUNK_BYTES
    const end = Math.min(start + names.length * CHUNK_BYTES, size)
    const fetched = this.#fetchInto(names, { start, end })
    for (const name of names) this.#fetching.set(idOf(name), fetched)
    const done = () => {
      for (const id of names.map(idOf)) {
        if (this.#fetching.get(id) === fetched) this.#fetching.delete(id)
      }
    }
    fetched.then(done, done)
    return fetched
  }

  async #fetchInto(names: readonly ChunkName[], range: ByteRange): Promise<void> {
    const buffer = this.#buffers.pop() ?? this.#newBuffer() ?? (await this.#waitForBuffer(names))
    try {
      const bytes = await this.upstream.read(names[0]!.key, range, this.#closed.signal, buffer)
      const pieces = names.map((name, i) =>
        this.#disk.write(name, bytes.subarray(i * CHUNK_BYTES, (i + 1) * CHUNK_BYTES)),
      )
      await Promise.all(pieces)
    } finally {
      this.#giveBuffer(buffer)
    }
  }

  #newBuffer(): Uint8Array<ArrayBuffer> | null {
    if (this.#runs === MAX_RUNS) return null
    this.#runs++
    return new Uint8Array(RUN_CHUNKS * CHUNK_BYTES)
  }

  #giveBuffer(buffer: Uint8Array<ArrayBuffer>): void {
    const next = this.#forBuffer.shift()
    if (next) next(buffer)
    else this.#buffers.push(buffer)
  }

  /** Waits for a free buffer. Rejects if no reader waits for the run any more when it gets one: readers come and go faster than a bucket answers. */
  async #waitForBuffer(names: readonly ChunkName[]): Promise<Uint8Array<ArrayBuffer>> {
    const { promise, resolve } = Promise.withResolvers<Uint8Array<ArrayBuffer>>()
    this.#forBuffer.push(resolve)
    const buffer = await promise
    const ids = names.map(idOf)
    if (ids.some(id => this.#wanted.has(id))) return buffer
    // At once, so that a reader that asks from now on begins anew.
    for (const id of ids) this.#fetching.delete(id)
    this.#giveBuffer(buffer)
    throw new DOMException('nobody waits for it any more', 'AbortError')
  }

  /** Counts one reader more, or one less, that waits for a chunk. */
  #want(id: string, change: 1 | -1): void {
    const wanted = (this.#wanted.get(id) ?? 0) + change
    if (wanted > 0) this.#wanted.set(id, wanted)
    else this.#wanted.delete(id)
  }

  /** Prefetches the runs that a reader going through the blob will ask for next, each once enough of it is missing to be worth a request. */
  #fetchAhead(key: string, next: number, size: number): void {
    const end = Math.min(next + CHUNKS_AHEAD, Math.ceil(size / CHUNK_BYTES))
    const isMissing = (index: number) => {
      const name = { key, index }
      return !this.#disk.has(name) && !this.#fetching.has(idOf(name))
    }
    for (let index = next; index < end && this.#runsAhead < MAX_RUNS_AHEAD; ) {
      if (!isMissing(index)) {
        index++
        continue
      }
      const run: ChunkName[] = []
      while (run.length < RUN_CHUNKS && index < end && isMissing(index))
        run.push({ key, index: index++ })
      const isCutShort = run.length < RUN_CHUNKS && index === end && index * CHUNK_BYTES < size
      if (isCutShort) return
      this.#runsAhead++
      const done = () => void this.#runsAhead--
      // A failure is reported to the reader that asks for the chunk.
      this.#fetchRun(run, size).then(done, done)
    }
  }

  /** Notes a read of chunks; true if it continues an earlier one, or starts the blob. */
  #isGoingThrough(key: string, first: number, last: number): boolean {
    const goesOn =
      first === 0 ||
      this.#recent.has(idOf({ key, index: first })) ||
      this.#recent.has(idOf({ key, index: first - 1 }))
    for (let index = first; index <= last; index++) this.#recent.add(idOf({ key, index }))
    for (const oldest of this.#recent) {
      if (this.#recent.size <= MAX_RECENT) break
      this.#recent.delete(oldest)
    }
    return goesOn
  }
}

function idOf({ key, index }: ChunkName): string {
  return `${key}/${index}`
}

/** The result of `work`, unless the signal aborts first; the work itself goes on. */
async function withSignal<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work
  const { promise, reject } = Promise.withResolvers<never>()
  const abort = () => reject(signal.reason)
  signal.addEventListener('abort', abort, { once: true })
  try {
    signal.throwIfAborted()
    return await Promise.race([work, promise])
  } finally {
    signal.removeEventListener('abort', abort)
    // It may reject after the signal has aborted.
    work.catch(() => {})
  }
}
