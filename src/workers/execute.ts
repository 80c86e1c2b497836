import { FRAME_BYTES, type Segment, type Span } from '../codec/index.ts'
import type { Pool } from './pool.ts'
import type { FrameJob } from './tasks.ts'

/** Reads exactly the bytes of a span, into a buffer of their own. */
export type ReadSpan = (span: Span, signal: AbortSignal | undefined) => Promise<Uint8Array>

export interface Executor {
  readonly pool: Pool
  readonly read: ReadSpan
  /** Bounds the batches that hold memory at once, over all streams that share it. */
  readonly slots: Slots
}

/** Consecutive segments that are produced together: one read, or one task for the pool. */
type Batch =
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'copy'; readonly span: Span }
  | { readonly kind: 'decode'; readonly jobs: FrameJob[]; readonly spans: Span[] }

/** Batches of one stream that may be under way or wait for its consumer: two decode while one is sent. */
const WINDOW = 3

/**
 * The bytes of `segments`, in order, in chunks of at most FRAME_BYTES. At most WINDOW batches are read ahead; a consumer that does
 * not pull stops the reads, one that returns or aborts frees what waits. Rejects with what `read` or the codec throws.
 */
export async function* execute(
  segments: Iterable<Segment>,
  executor: Executor,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const gone = new AbortController()
  const both = signal ? AbortSignal.any([signal, gone.signal]) : gone.signal
  try {
    yield* mapOrdered(batches(segments), WINDOW, batch => produce(batch, executor, both))
  } finally {
    gone.abort(new DOMException('The stream was closed', 'AbortError'))
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

async function produce(batch: Batch, executor: Executor, signal: AbortSignal): Promise<Uint8Array> {
  // A copy: the consumer may hand the buffer on to another thread, and a layout's header must outlive that.
  if (batch.kind === 'bytes') return batch.bytes.slice()
  using _slot = await executor.slots.take(signal)
  if (batch.kind === 'copy') return executor.read(batch.span, signal)
  const buffers = await readAll(batch.spans, executor.read, signal)
  return executor.pool.run({ kind: 'decode', jobs: batch.jobs }, buffers, signal)
}

/** Reads all spans at once, in order. */
export function readAll(
  spans: readonly Span[],
  read: ReadSpan,
  signal: AbortSignal | undefined,
): Promise<Uint8Array[]> {
  return Promise.all(
    spans.map(async span => (span.start === span.end ? new Uint8Array(0) : read(span, signal))),
  )
}

/** Joins neighbours: models have hundreds of tensors of a few KB, and a round trip each would cost more than their bytes. */
function* batches(segments: Iterable<Segment>): Generator<Batch> {
  let open: Batch | null = null
  let size = 0
  for (const segment of segments) {
    const bytes = segmentBytes(segment)
    const joined: Batch | null = open && size + bytes <= FRAME_BYTES ? join(open, segment) : null
    if (joined) {
      open = joined
      size += bytes
      continue
    }
    if (open) yield open
    open = start(segment)
    size = bytes
  }
  if (open) yield open
}

function segmentBytes(segment: Segment): number {
  switch (segment.kind) {
    case 'bytes':
      return segment.bytes.length
    case 'copy':
      return segment.span.end - segment.span.start
    case 'frame':
      return segment.slice.end - segment.slice.start
  }
}

function start(segment: Segment): Batch {
  if (segment.kind !== 'frame') return segment
  const { frame, spans, slice } = segment
  return { kind: 'decode', jobs: [{ frame, parts: 0, slice }], spans: [...spans] }
}

/** The batch with one more segment, or null where they do not go together. */
function join(batch: Batch, segment: Segment): Batch | null {
  if (batch.kind === 'decode' && segment.kind === 'frame') {
    const { frame, spans, slice } = segment
    batch.jobs.push({ frame, parts: batch.spans.length, slice })
    batch.spans.push(...spans)
    return batch
  }
  if (batch.kind !== 'copy' || segment.kind !== 'copy') return null
  const { span } = segment
  if (span.blob !== batch.span.blob || span.start !== batch.span.end) return null
  return { kind: 'copy', span: { ...batch.span, end: span.end } }
}

/** A counting semaphore, first come first served. */
export class Slots {
  #free: number
  readonly #waiting: { grant: () => void }[] = []

  constructor(count: number) {
    this.#free = count
  }

  /** Waits for a slot; dispose of what it gives to return it. Rejects with `signal.reason` if that aborts first. */
  async take(signal?: AbortSignal): Promise<Disposable> {
    signal?.throwIfAborted()
    if (this.#free > 0) this.#free--
    else await this.#wait(signal)
    return { [Symbol.dispose]: () => this.#release() }
  }

  #wait(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const waiter = {
        grant: () => {
          signal?.removeEventListener('abort', onAbort)
          resolve()
        },
      }
      const onAbort = () => {
        this.#waiting.splice(this.#waiting.indexOf(waiter), 1)
        reject(signal?.reason)
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#waiting.push(waiter)
    })
  }

  #release(): void {
    const next = this.#waiting.shift()
    if (next) next.grant()
    else this.#free++
  }
}
