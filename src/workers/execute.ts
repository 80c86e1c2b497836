import { type BlockSums, coveringBlocks } from '../codec/base/block-sums.ts'
import { itemBytes } from '../codec/base/dtypes.ts'
import { FRAME_BYTES } from '../codec/base/limits.ts'
import type { Span } from '../codec/base/ranges.ts'
import type { StoredBytes } from '../codec/plan/recipes.ts'
import type { FrameSegment, LosslessFrame, Prediction, Segment } from '../codec/plan/segments.ts'
import type { BufferPool, ChunkBuffer } from './buffer-pool.ts'
import type { Pool } from './pool.ts'
import { type PrefetchBudget, Prefetcher, PrefetchItem } from './prefetch.ts'
import type { Semaphore } from './semaphore.ts'
import type { FrameParts, LosslessParts, Part, Piece, TaskBuffer, TunedFrame } from './tasks.ts'

/** Where the bytes of blobs come from. */
export interface ByteSource {
  /** Reads exactly the bytes of a span, into a buffer of their own. */
  readonly read: (span: Span, signal: AbortSignal | undefined) => Promise<Uint8Array>
  /** The path of a blob that is a local file: the workers then read it themselves. Null for one that must be fetched. */
  readonly locate: (blob: string) => string | null
  /** Brings the bytes of a span to where a worker has them. */
  readonly fetch: (span: Span, signal: AbortSignal | undefined) => Promise<TaskBuffer>
}

export interface Executor extends ByteSource {
  readonly pool: Pool
  /** Where they come from in the end, without copies that are nearer: a read that failed is tried again with them. */
  readonly upstream: ByteSource
  /** What the bytes of a blob are checked against; null where nothing is known of it, as of a file that a user names. */
  readonly sumsOf: (blob: string) => BlockSums | null
  /**
   * Told of a read that failed while a content was produced, and how many tries at it there were before. True if another one may read other
   * bytes: from farther away, or from another copy of the blob.
   */
  readonly failed: (error: unknown, tries: number) => Promise<boolean>
  /** Bounds the batches that are being made at once, over all streams that share it. */
  readonly slots: Semaphore
  /** Bounds the batches that are made before they are asked for, over all streams that share it. */
  readonly prefetch: PrefetchBudget
  /** Where the chunks of streams are made. */
  readonly bufferPool: BufferPool
}

/**
 * The bytes of `segments`, in order, in chunks of at most FRAME_BYTES. A chunk is valid until the next one is asked for, or the stream is
 * returned. A consumer that does not pull stops the reads, one that returns or aborts frees what waits. Rejects with what `read` or the
 * codec throws.
 */
export async function* execute(
  segments: Iterable<Segment>,
  executor: Executor,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const gone = new AbortController()
  const both = signal ? AbortSignal.any([signal, gone.signal]) : gone.signal
  const window = new Prefetcher(chunksOf(segments, executor, both), executor.prefetch)
  try {
    for (let chunk = await window.next(); chunk; chunk = await window.next()) {
      try {
        yield chunk
      } finally {
        executor.bufferPool.give(chunk)
      }
    }
  } finally {
    gone.abort(new DOMException('The stream was closed', 'AbortError'))
    window.close()
  }
}

function* chunksOf(
  segments: Iterable<Segment>,
  executor: Executor,
  signal: AbortSignal,
): Generator<PrefetchItem<ChunkBuffer>> {
  for (const batch of batches(segments)) {
    yield new PrefetchItem(
      () => produce(batch, executor, signal),
      chunk => executor.bufferPool.give(chunk),
    )
  }
}

/** The bytes of a batch, in a buffer that whoever gets it gives back. What fails gives it back itself: no worker uses it any more then. */
async function produce(
  batch: Batch,
  executor: Executor,
  signal: AbortSignal,
): Promise<ChunkBuffer> {
  const into = await executor.bufferPool.take(batch.size, signal)
  try {
    const [only] = batch.segments
    if (only!.kind === 'bytes' && batch.segments.length === 1) into.set(only!.bytes)
    else await withRetries(executor, source => decode(batch, into, source, signal), signal)
    return into
  } catch (error) {
    executor.bufferPool.give(into)
    throw error
  }
}

/**
 * Does what reads blobs, and does it again where the executor says that this may go better: from the origin, or from another copy of
 * what was bad. Rejects with what the last try does.
 */
export async function withRetries<T>(
  executor: Executor,
  work: (executor: Executor) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const again = { ...executor, ...executor.upstream }
  for (let tries = 0; ; tries++) {
    try {
      return await work(tries === 0 ? executor : again)
    } catch (error) {
      if (signal?.aborted || !(await executor.failed(error, tries))) throw error
    }
  }
}

async function decode(
  { segments }: Batch,
  into: ChunkBuffer,
  executor: Executor,
  signal: AbortSignal,
): Promise<void> {
  using _slot = await executor.slots.take(signal)
  const { pieces, buffers } = await gather(segments, executor, signal)
  // Awaited here: the slot is given back at the end of this block, and `into` is the caller's again.
  await executor.pool.run({ kind: 'decode', pieces, into }, buffers, signal)
}

/**
 * Hex SHA-256 of the bytes of `segments`. The worker that produces them hashes them: they never leave it.
 * Rejects with what `read` or the codec throws.
 */
export async function digest(
  segments: Iterable<Segment>,
  executor: Executor,
  signal?: AbortSignal,
): Promise<string> {
  const session = executor.pool.openHash(signal)
  const update = (_batch: Batch, { pieces, buffers }: Gathered) => session.update(pieces, buffers)
  return digestBatches(segments, { ...session, update }, executor, signal)
}

/** A hash that lives in a worker: `update` feeds it what a batch was gathered to. */
interface BatchHash<T> {
  update(batch: Batch, gathered: Gathered): Promise<void>
  digest(): Promise<T>
  abandon(): void
}

/** Feeds the segments to a hash, batch by batch and in order, and gives its digest. What fails abandons it. */
export async function digestBatches<T>(
  segments: Iterable<Segment>,
  session: BatchHash<T>,
  executor: Executor,
  signal: AbortSignal | undefined,
): Promise<T> {
  let before: Promise<void> = Promise.resolve()
  try {
    for (const batch of batches(segments)) {
      // One is hashed while the next is read.
      const first = gather(batch.segments, executor, signal)
      first.catch(() => {})
      await before
      const { promise: begun, resolve: begin } = Promise.withResolvers<void>()
      before = hashBatch(executor, session, { batch, first, begin }, signal)
      // It may fail before it has begun, and the loop before it awaits this.
      before.catch(begin)
      // No more than one batch is planned between two tasks.
      await begun
    }
    await before
    return await session.digest()
  } catch (error) {
    session.abandon()
    throw error
  }
}

/** Hashes one batch, and calls `begin` once a worker has it. A try that fails leaves the hash as it was. */
function hashBatch(
  executor: Executor,
  session: Pick<BatchHash<unknown>, 'update'>,
  { batch, first, begin }: { batch: Batch; first: Promise<Gathered>; begin: () => void },
  signal: AbortSignal | undefined,
): Promise<void> {
  let gathered: Promise<Gathered> | null = first
  const hash = async (source: Executor) => {
    const taken = gathered ?? gather(batch.segments, source, signal)
    gathered = null
    // Read before the slot is taken: a failed read then has no slot to give back.
    const parts = await taken
    using _slot = await executor.slots.take(signal)
    const hashed = session.update(batch, parts)
    begin()
    // Awaited here: the slot is given back at the end of this block.
    await hashed
  }
  return withRetries(executor, hash, signal)
}

/** Writes the bytes of `segments` to an existing file, from its beginning; the workers write side by side. */
export async function* writeFile(
  segments: Iterable<Segment>,
  path: string,
  executor: Executor,
  signal?: AbortSignal,
): AsyncGenerator<number> {
  const write = async ({ segments: joined, size, position }: Batch) => {
    using _slot = await executor.slots.take(signal)
    const { pieces, buffers } = await gather(joined, executor, signal)
    await executor.pool.run({ kind: 'write', pieces, path, position }, buffers, signal)
    return size
  }
  yield* mapOrdered(batches(segments), executor.pool.size * 2, write)
}

/** What a task takes for segments. */
export interface Gathered {
  readonly pieces: readonly Piece[]
  readonly buffers: readonly TaskBuffer[]
}

/** The segments as a worker takes them: what it can read itself is named, everything else is read here. */
async function gather(
  segments: readonly Segment[],
  executor: Executor,
  signal: AbortSignal | undefined,
): Promise<Gathered> {
  const sources = new Sources(executor, signal)
  const pieces = sources.pieces(segments)
  return { pieces, buffers: await sources.buffers() }
}

/** A frame as a task takes it, with the values of `tuned` (bytes of a recipe without steps) for the same elements. */
export async function gatherTuned(
  executor: Executor,
  {
    planned,
    tuned,
    signal,
  }: {
    planned: Pick<FrameSegment, 'frame' | 'source' | 'spans'>
    tuned: StoredBytes
    signal: AbortSignal | undefined
  },
): Promise<{ tuned: TunedFrame; buffers: TaskBuffer[] }> {
  const { span, dtype: tunedDtype } = tuned
  const { frame } = planned
  const item = itemBytes(tunedDtype)
  const start = span.start + frame.first * item
  const sources = new Sources(executor, signal)
  const parts = sources.frame(planned)
  const values = sources.part({ blob: span.blob, start, end: start + frame.count * item })
  return { tuned: { ...parts, tuned: values, tunedDtype }, buffers: await sources.buffers() }
}

/** Collects the parts of one task. */
export class Sources {
  readonly #executor: Executor
  readonly #signal: AbortSignal | undefined
  readonly #reads: Promise<TaskBuffer>[] = []
  #last: { readonly blob: string; readonly path: string | null } | null = null
  readonly #frames = new Map<LosslessFrame, LosslessParts>()

  constructor(executor: Executor, signal: AbortSignal | undefined) {
    this.#executor = executor
    this.#signal = signal
  }

  /** Segments as pieces. */
  pieces(segments: readonly Segment[]): Piece[] {
    // A view would take all of its buffer with it to the worker, and a buffer for each costs more than its bytes.
    const room = new Uint8Array(bytesIn(segments))
    let at = 0
    return segments.map((segment): Piece => {
      switch (segment.kind) {
        case 'bytes': {
          const start = at
          at += segment.bytes.length
          room.set(segment.bytes, start)
          return { kind: 'bytes', bytes: room.subarray(start, at) }
        }
        case 'copy': {
          const { span } = segment
          return { kind: 'copy', part: this.part(span), size: span.end - span.start }
        }
        case 'frame':
          return { kind: 'frame', ...this.frame(segment), slice: segment.slice }
        case 'lossless':
          return { ...segment, frame: this.#lossless(segment.frame) }
      }
      return segment
    })
  }

  frame({ frame, source, spans }: Pick<FrameSegment, 'frame' | 'source' | 'spans'>): FrameParts {
    return { frame, source: this.pieces(source), parts: spans.map(span => this.part(span)) }
  }

  /** One frame is one object however many want it: what a message has twice arrives once. */
  #lossless(frame: LosslessFrame): LosslessParts {
    const known = this.#frames.get(frame)
    if (known) return known
    const { span, prediction, ...rest } = frame
    const record = span && this.part(span)
    const parts = { ...rest, record, prediction: prediction && this.prediction(prediction) }
    this.#frames.set(frame, parts)
    return parts
  }

  prediction({ source, size, dtype }: Prediction<Segment>): Prediction<Piece> {
    return { source: this.pieces(source), size, dtype }
  }

  /** Bytes that are here already; the task takes them over. */
  buffer(bytes: Uint8Array): Part {
    const buffer = this.#reads.push(Promise.resolve(bytes)) - 1
    return { buffer, from: 0, start: 0, end: bytes.length, check: null }
  }

  /** How the task names the bytes of a span; reading them begins here where the worker cannot do it. */
  part({ blob, start, end }: Span): Part {
    const sums = this.#executor.sumsOf(blob)
    const check = sums && { blob, ...coveringBlocks(sums, start, end) }
    const path = this.#locate(blob)
    if (path !== null) return { path, start, end, check }
    const run = check ?? { start, end }
    const read =
      run.start === run.end
        ? Promise.resolve(new Uint8Array(0))
        : this.#executor.fetch({ blob, start: run.start, end: run.end }, this.#signal)
    read.catch(() => {})
    return { buffer: this.#reads.push(read) - 1, from: run.start, start, end, check }
  }

  /** Neighbours are of one blob most often, and a path takes longer to make than all else of a part. */
  #locate(blob: string): string | null {
    if (this.#last?.blob !== blob) this.#last = { blob, path: this.#executor.locate(blob) }
    return this.#last.path
  }

  /** Whether any part is read here: what a worker reads itself is a file of the store, and no copy of it that may be bad or gone. */
  get isFetching(): boolean {
    return this.#reads.length > 0
  }

  /** The buffers that go with the task. */
  buffers(): Promise<TaskBuffer[]> {
    return Promise.all(this.#reads)
  }
}

/**
 * `fn` over `items` with at most `width` calls under way, results in order. A failure is thrown at its turn; calls under way
 * are then left to settle by themselves.
 */
export async function* mapOrdered<T, R>(
  items: Iterable<T>,
  width: number,
  fn: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const under: Promise<R>[] = []
  for (const item of items) {
    const result = fn(item)
    // Its turn may come after another failure ended the stream: the rejection must not count as unhandled.
    result.catch(() => {})
    under.push(result)
    if (under.length >= width) yield await under.shift()!
  }
  for (const result of under) yield await result
}

/**
 * Segments that are joined at most, with the frames that they are made from: of tensors of a few bytes, or of a long lineage, those of 2 MiB would
 * hold the event loop for half a second.
 */
const MAX_BATCH_SEGMENTS = 1024

/** Consecutive segments that are produced together; `position` counts from the first byte of the first batch. */
export interface Batch {
  readonly segments: Segment[]
  readonly size: number
  readonly position: number
}

/**
 * Joins neighbours, up to FRAME_BYTES: models have hundreds of tensors of a few KB, and a round trip each would cost more than their
 * bytes.
 */
function* batches(segments: Iterable<Segment>): Generator<Batch> {
  let open: Segment[] = []
  let size = 0
  let position = 0
  let joined = 0
  for (const segment of cutBytes(segments)) {
    const bytes = segmentBytes(segment)
    const weight = segmentsOf([segment])
    const fits = size + bytes <= FRAME_BYTES && joined + weight <= MAX_BATCH_SEGMENTS
    if (open.length > 0 && !fits) {
      yield { segments: open, size, position }
      position += size
      open = []
      size = 0
      joined = 0
    }
    joined += weight
    const last = open.at(-1)
    const merged = last && mergeCopies(last, segment)
    if (merged) open[open.length - 1] = merged
    else open.push(segment)
    size += bytes
  }
  if (open.length > 0) yield { segments: open, size, position }
}

/** The same bytes with no segment above FRAME_BYTES: only a header is as long as that, of a model with very many tensors. */
function* cutBytes(segments: Iterable<Segment>): Generator<Segment> {
  for (const segment of segments) {
    if (segment.kind !== 'bytes' || segment.bytes.length <= FRAME_BYTES) {
      yield segment
      continue
    }
    for (let at = 0; at < segment.bytes.length; at += FRAME_BYTES) {
      yield { kind: 'bytes', bytes: segment.bytes.subarray(at, at + FRAME_BYTES) }
    }
  }
}

/** Bytes of the segments that are bytes. */
function bytesIn(segments: readonly Segment[]): number {
  let bytes = 0
  for (const segment of segments) if (segment.kind === 'bytes') bytes += segment.bytes.length
  return bytes
}

function segmentBytes(segment: Segment): number {
  switch (segment.kind) {
    case 'bytes':
      return segment.bytes.length
    case 'copy':
      return segment.span.end - segment.span.start
    case 'frame':
    case 'lossless':
      return segment.slice.end - segment.slice.start
  }
}

/** How many segments these are, with those that they are made from. A frame that several want counts once. */
export function segmentsOf(
  segments: readonly Segment[],
  counted = new Set<LosslessFrame>(),
): number {
  let sum = segments.length
  for (const segment of segments) {
    if (segment.kind === 'frame') sum += segmentsOf(segment.source, counted)
    if (segment.kind !== 'lossless' || counted.has(segment.frame)) continue
    counted.add(segment.frame)
    sum += segmentsOf(segment.frame.prediction?.source ?? [], counted)
  }
  return sum
}

/** One copy for two that are neighbours in their blob as well. */
function mergeCopies(a: Segment, b: Segment): Segment | null {
  if (a.kind !== 'copy' || b.kind !== 'copy') return null
  if (a.span.blob !== b.span.blob || a.span.end !== b.span.start) return null
  return { kind: 'copy', span: { ...a.span, end: b.span.end } }
}
