import { coveringBlocks } from '../codec/base/block-sums.ts'
import { itemBytes } from '../codec/base/dtypes.ts'
import type { Span } from '../codec/base/ranges.ts'
import type { StoredBytes } from '../codec/plan/recipes.ts'
import type { DeltaFrame, FloatFrameSegment, Prediction, Segment } from '../codec/plan/segments.ts'
import { bytesIn } from './batches.ts'
import type { ByteSource } from './byte-source.ts'
import type {
  DeltaFrameParts,
  FloatFrameParts,
  Part,
  Piece,
  TaskBuffer,
  TunedFrame,
} from './tasks.ts'

/** Collects what one task reads: local files are named, for its worker to read; everything else is read here and goes with the task. */
export class TaskParts {
  readonly #source: ByteSource
  readonly #signal: AbortSignal | undefined
  readonly #reads: Promise<TaskBuffer>[] = []
  #last: { readonly blob: string; readonly path: string | null } | null = null
  readonly #frames = new Map<DeltaFrame, DeltaFrameParts>()

  constructor(source: ByteSource, signal: AbortSignal | undefined) {
    this.#source = source
    this.#signal = signal
  }

  /** The segments as pieces. Reading what workers cannot read themselves begins here. */
  pieces(segments: readonly Segment[]): Piece[] {
    // One buffer for all: a view would take the whole of its buffer to the worker, and a buffer for each would cost more than its bytes.
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
          return { kind: 'frame', ...this.floatFrame(segment), slice: segment.slice }
        case 'lossless':
          return { ...segment, frame: this.#deltaFrame(segment.frame) }
      }
      return segment
    })
  }

  floatFrame({
    frame,
    source,
    spans,
  }: Pick<FloatFrameSegment, 'frame' | 'source' | 'spans'>): FloatFrameParts {
    return { frame, source: this.pieces(source), parts: spans.map(span => this.part(span)) }
  }

  /** A frame, and the values of `tuned` for the same elements: bytes of a recipe without steps. */
  tunedFrame(
    planned: Pick<FloatFrameSegment, 'frame' | 'source' | 'spans'>,
    tuned: StoredBytes,
  ): TunedFrame {
    const { span, dtype: tunedDtype } = tuned
    const { first, count } = planned.frame
    const item = itemBytes(tunedDtype)
    const start = span.start + first * item
    const values = this.part({ blob: span.blob, start, end: start + count * item })
    return { ...this.floatFrame(planned), tuned: values, tunedDtype }
  }

  /** A frame that several pieces need is one object: a message carries an object once. */
  #deltaFrame(frame: DeltaFrame): DeltaFrameParts {
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

  /** Bytes that are in memory; the task takes them over. */
  buffer(bytes: Uint8Array): Part {
    const buffer = this.#reads.push(Promise.resolve(bytes)) - 1
    return { buffer, from: 0, start: 0, end: bytes.length, check: null }
  }

  /** The bytes of a span, as the task names them. Reading them begins here if the worker cannot do it. */
  part({ blob, start, end }: Span): Part {
    const sums = this.#source.checksumsOf(blob)
    const check = sums && { blob, ...coveringBlocks(sums, start, end) }
    const path = this.#locate(blob)
    if (path !== null) return { path, start, end, check }
    const run = check ?? { start, end }
    const read =
      run.start === run.end
        ? Promise.resolve(new Uint8Array(0))
        : this.#source.fetch({ blob, start: run.start, end: run.end }, this.#signal)
    read.catch(() => {})
    return { buffer: this.#reads.push(read) - 1, from: run.start, start, end, check }
  }

  /** The path of a blob, kept for the next part: neighbours are mostly of one blob, and making a path takes longer than the rest of a part. */
  #locate(blob: string): string | null {
    if (this.#last?.blob !== blob) this.#last = { blob, path: this.#source.locate(blob) }
    return this.#last.path
  }

  /** True if any part is read here. What a worker reads itself is a file of the store, not a copy that may be bad or gone. */
  get isFetching(): boolean {
    return this.#reads.length > 0
  }

  /** The buffers that go with the task. */
  buffers(): Promise<TaskBuffer[]> {
    return Promise.all(this.#reads)
  }
}
