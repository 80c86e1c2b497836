import type { Segment } from '../codec/plan/segments.ts'
import { type Batch, batches } from './batches.ts'
import type { BufferPool, ChunkBuffer } from './buffer-pool.ts'
import { type ByteSource, withRetries } from './byte-source.ts'
import { mapOrdered } from './map-ordered.ts'
import type { HashSession, ModelHashSession, Pool } from './pool.ts'
import { PrefetchBudget, Prefetcher, PrefetchItem } from './prefetch.ts'
import { Semaphore } from './semaphore.ts'
import { TaskParts } from './task-parts.ts'
import type { Piece, Results, Task, TaskBuffer } from './tasks.ts'
import { inOneTurn } from './turns.ts'

/** What all engines of a process share. */
export interface EngineParts {
  readonly pool: Pool
  /** The memory for chunks of streams. */
  readonly buffers: BufferPool
  /** Batches per worker that are read or computed at once: one is computed while the bytes of the next are read. */
  readonly batchesPerWorker: number
  /** Most batches of FRAME_BYTES that all streams together make before they are asked for. */
  readonly prefetched: number
}

interface Machinery extends Pick<EngineParts, 'pool' | 'buffers'> {
  readonly slots: Semaphore
  readonly prefetch: PrefetchBudget
}

/** A hash whose state is in a worker. `update` takes a batch, and what its task reads. */
export interface BatchHash<T> {
  update(batch: Batch, gathered: Gathered): Promise<void>
  digest(): Promise<T>
  abandon(): void
}

/** What the task of a batch reads: its pieces, and the buffers that go with them. */
export interface Gathered {
  readonly pieces: readonly Piece[]
  readonly buffers: readonly TaskBuffer[]
}

/**
 * Carries out plans on worker threads, over the bytes of one {@link ByteSource}. All engines of a process share its limits. Failed reads are tried
 * again as the source says.
 */
export class Engine {
  /** Where bytes come from, and what they are checked against. */
  readonly source: ByteSource
  readonly #machinery: Machinery

  private constructor(source: ByteSource, machinery: Machinery) {
    this.source = source
    this.#machinery = machinery
  }

  /** The engine of a process. The caller closes the pool. */
  static over(source: ByteSource, parts: EngineParts): Engine {
    const { pool, buffers } = parts
    const slots = new Semaphore(pool.size * parts.batchesPerWorker)
    return new Engine(source, {
      pool,
      buffers,
      slots,
      prefetch: new PrefetchBudget(parts.prefetched),
    })
  }

  /** An engine over another source, under the same limits. */
  over(source: ByteSource): Engine {
    return new Engine(source, this.#machinery)
  }

  /** Tasks that are worth having under way at once, for a caller that bounds them itself. */
  get width(): number {
    return this.#machinery.pool.size * 2
  }

  /** Tasks that run or wait. */
  get busy(): number {
    return this.#machinery.pool.busy
  }

  /** Bytes of idle buffers, which {@link trim} frees, beyond what a few streams need. */
  get spareBytes(): number {
    return this.#machinery.buffers.spareBytes
  }

  /** Frees memory that is kept only to be used again, here and in the workers. */
  async trim(): Promise<void> {
    this.#machinery.buffers.trim()
    await this.#machinery.pool.trim()
  }

  /**
   * The bytes of `segments`, in order, in chunks of at most FRAME_BYTES bytes. A chunk is valid until the next one is asked for or the stream is
   * returned. A consumer that does not pull stops the reads; one that returns or aborts frees what is waiting. Rejects with what the source or the
   * codec throws.
   */
  async *stream(segments: Iterable<Segment>, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    const { prefetch, buffers } = this.#machinery
    const gone = new AbortController()
    const both = signal ? AbortSignal.any([signal, gone.signal]) : gone.signal
    const chunks = new Prefetcher(this.#chunks(segments, both), prefetch)
    try {
      for (let chunk = await chunks.next(); chunk; chunk = await chunks.next()) {
        try {
          yield chunk
        } finally {
          buffers.give(chunk)
        }
      }
    } finally {
      gone.abort(new DOMException('The stream was closed', 'AbortError'))
      chunks.close()
    }
  }

  *#chunks(segments: Iterable<Segment>, signal: AbortSignal): Generator<PrefetchItem<ChunkBuffer>> {
    for (const batch of batches(segments)) {
      yield new PrefetchItem(
        () => this.#chunk(batch, signal),
        chunk => this.#machinery.buffers.give(chunk),
      )
    }
  }

  /** The bytes of a batch, in a buffer that the caller gives back. If it fails, it has given the buffer back: no worker uses it any more. */
  async #chunk({ segments, size }: Batch, signal: AbortSignal): Promise<ChunkBuffer> {
    const { buffers } = this.#machinery
    const into = await buffers.take(size, signal)
    try {
      const [only] = segments
      if (only!.kind === 'bytes' && segments.length === 1) into.set(only!.bytes)
      else
        await this.run(parts => ({ kind: 'decode', pieces: parts.pieces(segments), into }), signal)
      return into
    } catch (error) {
      buffers.give(into)
      throw error
    }
  }

  /** Writes the bytes of `segments` to an existing file, from its beginning, several batches side by side. Yields the bytes of each batch written. */
  async *writeFile(
    segments: Iterable<Segment>,
    path: string,
    signal?: AbortSignal,
  ): AsyncGenerator<number> {
    const write = async ({ segments: joined, size, position }: Batch) => {
      await this.run(
        parts => ({ kind: 'write', pieces: parts.pieces(joined), path, position }),
        signal,
      )
      return size
    }
    yield* mapOrdered(batches(segments), this.width, write)
  }

  /** Hex SHA-256 of the bytes of `segments`, which never leave the worker that produces them. Rejects with what the source or the codec throws. */
  async digest(segments: Iterable<Segment>, signal?: AbortSignal): Promise<string> {
    const session: HashSession = this.#machinery.pool.openHash(signal)
    const update: BatchHash<string>['update'] = (_batch, { pieces, buffers }) =>
      session.update(pieces, buffers)
    return this.feed(segments, { ...session, update }, signal)
  }

  /** As `Pool.openModelHash`, for {@link feed}. */
  openModelHash(widens: boolean, signal?: AbortSignal): ModelHashSession {
    return this.#machinery.pool.openModelHash(widens, signal)
  }

  /** Feeds segments to a hash, batch by batch in order, and gives its digest. A failure abandons the hash. */
  async feed<T>(
    segments: Iterable<Segment>,
    hash: BatchHash<T>,
    signal: AbortSignal | undefined,
  ): Promise<T> {
    let before: Promise<void> = Promise.resolve()
    const planned = batches(segments)
    // In a turn of its own: several feeds that each plan a batch of 1,024 tiny tensors would hold the event loop for half a second.
    const next = () =>
      inOneTurn(() => {
        const { value: batch } = planned.next()
        if (!batch) return null
        // One batch is hashed while the next is read.
        const first = gather(this.source, batch, signal)
        first.catch(() => {})
        return { batch, first }
      })
    try {
      for (let step = await next(); step; step = await next()) {
        await before
        const { promise: begun, resolve: begin } = Promise.withResolvers<void>()
        before = this.#hashBatch(hash, { ...step, begin }, signal)
        // If it fails before it has begun, the loop must still go on to await it.
        before.catch(begin)
        // So that at most one batch is planned between two tasks.
        await begun
      }
      await before
      return await hash.digest()
    } catch (error) {
      planned.return(undefined)
      hash.abandon()
      throw error
    }
  }

  /** Hashes one batch, and calls `begin` once a worker has it. A failed try leaves the hash unchanged. */
  #hashBatch(
    hash: Pick<BatchHash<unknown>, 'update'>,
    { batch, first, begin }: { batch: Batch; first: Promise<Gathered>; begin: () => void },
    signal: AbortSignal | undefined,
  ): Promise<void> {
    let gathered: Promise<Gathered> | null = first
    const update = async (source: ByteSource) => {
      const taken = gathered ?? gather(source, batch, signal)
      gathered = null
      // Read before the slot is taken: a failed read then has no slot to give back.
      const parts = await taken
      using _slot = await this.#machinery.slots.take(signal)
      const hashed = hash.update(batch, parts)
      begin()
      // Awaited here: the slot is given back at the end of this block.
      await hashed
    }
    return withRetries(this.source, update, signal)
  }

  /**
   * Runs one task once there is a slot for it. `make` gives the task, anew for every try, and asks `parts` for what the task reads. Rejects as the
   * source does, and as `Pool.run`.
   */
  run<const T extends Task>(
    make: (parts: TaskParts) => T,
    signal?: AbortSignal,
  ): Promise<Results[T['kind']]> {
    const { pool, slots } = this.#machinery
    const attempt = async (source: ByteSource) => {
      using _slot = await slots.take(signal)
      const parts = new TaskParts(source, signal)
      const task = make(parts)
      // Awaited here: the slot is given back at the end of this block.
      return await pool.run(task, await parts.buffers(), signal)
    }
    return withRetries(this.source, attempt, signal)
  }
}

async function gather(
  source: ByteSource,
  { segments }: Batch,
  signal: AbortSignal | undefined,
): Promise<Gathered> {
  const parts = new TaskParts(source, signal)
  const pieces = parts.pieces(segments)
  return { pieces, buffers: await parts.buffers() }
}
