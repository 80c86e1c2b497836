import type { ByteRange, LocalFile } from '../../codec/base/ranges.ts'
import type { BlobInfo, BlobStore, Staged } from '../blob-store.ts'
import type { CacheFigures, NearStore } from '../near-store.ts'
import { type ChunkName, DiskChunks } from './disk-chunks.ts'

/** What is kept at once, as one file. */
export const CHUNK_BYTES = 2 * 1024 * 1024
/** Neighbouring chunks that one request fetches: it costs as much for one as for a few. */
const RUN = 4
/** Chunks that are fetched before they are asked for, where a blob is read from one end to the other. */
const AHEAD = 12
/** Requests under way for what nobody has asked for yet, over all readers. */
const RUNS_AHEAD = 8
/**
 * Runs that are fetched at once, each into a buffer that is used again: fresh ones set off collections of the whole heap. More than what is
 * fetched ahead, so that who waits for a run never waits for that alone.
 */
const MAX_RUNS = 12
/** Chunks whose reading is remembered: who asks for the one after goes through the blob. */
const RECENT = 1000
/** Blobs whose sizes are remembered. */
const SIZES = 10_000

/**
 * A store that is far away, with what was read of it last in a folder of this machine, up to `mostBytes`. Reads come from there, in whole
 * chunks that are fetched where they are not there yet, and ahead of a reader that goes through a blob. Bytes are not checked here: who
 * finds them wrong says so by `evict`. A folder that takes no bytes is done without.
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
  /** By chunk: resolves when it is in the folder, or when that did not take it; rejects with what the store does. */
  readonly #fetching = new Map<string, Promise<void>>()
  readonly #recent = new Set<string>()
  readonly #sizes = new Map<string, Promise<number>>()
  readonly #closed = new AbortController()
  /** Those who wait for a chunk that is fetched, by chunk. */
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

  /** Blobs never change, and so do their sizes. */
  size(key: string): Promise<number> {
    const known = this.#sizes.get(key)
    if (known) return known
    const size = this.upstream.size(key)
    this.#sizes.set(key, size)
    size.catch(() => this.#sizes.delete(key))
    if (this.#sizes.size > SIZES) this.#sizes.delete(this.#sizes.keys().next().value!)
    return size
  }

  list(prefix: string, isWanted?: (key: string) => boolean): AsyncIterable<BlobInfo> {
    return this.upstream.list(prefix, isWanted)
  }

  async delete(keys: readonly string[]): Promise<void> {
    await this.upstream.delete(keys)
    for (const key of keys) {
      this.#sizes.delete(key)
      // What is fetched now would come back.
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

  /** Brings the chunks of a range into the folder. Null where they are not there then, or the range is none that the blob has. */
  async #bring(
    key: string,
    { start, end }: ByteRange,
    signal: AbortSignal | undefined,
  ): Promise<ChunkName[] | null> {
    signal?.throwIfAborted()
    const isRange = Number.isSafeInteger(start) && Number.isSafeInteger(end)
    if (!isRange || start < 0 || start >= end || !this.#disk.isTaking) return null
    const size = await this.size(key)
    // What is no range of the blob is the store's to refuse.
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

  /** What to wait for until chunks of one blob, in order, are there: they are fetched unless they are already. */
  #fetch(names: readonly ChunkName[], size: number): Promise<void>[] {
    let run: ChunkName[] = []
    for (const name of names) {
      if (this.#fetching.has(idOf(name))) continue
      if (run.length === RUN || (run.length > 0 && run.at(-1)!.index + 1 !== name.index)) {
        void this.#fetchRun(run, size)
        run = []
      }
      run.push(name)
    }
    if (run.length > 0) void this.#fetchRun(run, size)
    return names.map(name => this.#fetching.get(idOf(name))!)
  }

  /** Fetches neighbouring chunks. Not bound to the request that asks first: others may wait for them, and soon will. */
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
    return new Uint8Array(RUN * CHUNK_BYTES)
  }

  #giveBuffer(buffer: Uint8Array<ArrayBuffer>): void {
    const next = this.#forBuffer.shift()
    if (next) next(buffer)
    else this.#buffers.push(buffer)
  }

  /** Rejects if nobody waits for the run any more when its turn comes: readers come and go faster than a bucket answers. */
  async #waitForBuffer(names: readonly ChunkName[]): Promise<Uint8Array<ArrayBuffer>> {
    const { promise, resolve } = Promise.withResolvers<Uint8Array<ArrayBuffer>>()
    this.#forBuffer.push(resolve)
    const buffer = await promise
    const ids = names.map(idOf)
    if (ids.some(id => this.#wanted.has(id))) return buffer
    // At once: who asks from now on begins anew.
    for (const id of ids) this.#fetching.delete(id)
    this.#giveBuffer(buffer)
    throw new DOMException('nobody waits for it any more', 'AbortError')
  }

  /** Counts one more, or one less, who waits for a chunk. */
  #want(id: string, change: 1 | -1): void {
    const wanted = (this.#wanted.get(id) ?? 0) + change
    if (wanted > 0) this.#wanted.set(id, wanted)
    else this.#wanted.delete(id)
  }

  /** Begins to fetch the next run that a reader who goes through the blob will ask for, if enough of it is missing to be worth a request. */
  #fetchAhead(key: string, next: number, size: number): void {
    const end = Math.min(next + AHEAD, Math.ceil(size / CHUNK_BYTES))
    const isMissing = (index: number) => {
      const name = { key, index }
      return !this.#disk.has(name) && !this.#fetching.has(idOf(name))
    }
    for (let index = next; index < end && this.#runsAhead < RUNS_AHEAD; ) {
      if (!isMissing(index)) {
        index++
        continue
      }
      const run: ChunkName[] = []
      while (run.length < RUN && index < end && isMissing(index)) run.push({ key, index: index++ })
      const isCutShort = run.length < RUN && index === end && index * CHUNK_BYTES < size
      if (isCutShort) return
      this.#runsAhead++
      const done = () => void this.#runsAhead--
      // A failure is told where the chunk is asked for.
      this.#fetchRun(run, size).then(done, done)
    }
  }

  /** Takes note of a read of chunks; true if it goes on where another one was. */
  #isGoingThrough(key: string, first: number, last: number): boolean {
    const goesOn =
      first === 0 ||
      this.#recent.has(idOf({ key, index: first })) ||
      this.#recent.has(idOf({ key, index: first - 1 }))
    for (let index = first; index <= last; index++) this.#recent.add(idOf({ key, index }))
    for (const oldest of this.#recent) {
      if (this.#recent.size <= RECENT) break
      this.#recent.delete(oldest)
    }
    return goesOn
  }
}

function idOf({ key, index }: ChunkName): string {
  return `${key}/${index}`
}

/** What `work` gives, unless the signal aborts first; the work itself goes on. */
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
    // Whichever came second.
    work.catch(() => {})
  }
}
