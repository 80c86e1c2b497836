import { createHash } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import { FRAME_BYTES } from '../../codec/base/limits.ts'
import { STEP_ITEMS } from '../../codec/base/steps.ts'
import { ENCODINGS } from '../../codec/frames/frame-encodings.ts'
import { planPrediction } from '../../codec/plan/plan.ts'
import type { Recipe, Recipes } from '../../codec/plan/recipes.ts'
import type { Prediction, Segment } from '../../codec/plan/segments.ts'
import type { LayoutTensor } from '../../codec/safetensors/layout.ts'
import { LayoutReader } from '../../codec/safetensors/layout-reader.ts'
import type { FrameTensor, HashedShard } from '../../codec/wdelta/delta-index.ts'
import { frameCount, NO_RECORD, sized } from '../../codec/wdelta/v2/format.ts'
import { FrameDeltaWriter, INDEX_LEVEL } from '../../codec/wdelta/v2/writer.ts'
import { segmentsOf } from '../batches.ts'
import { retriedWhile } from '../byte-source.ts'
import type { Engine } from '../engine.ts'
import { deflate, threadKernels } from '../kernels.ts'
import type { TaskParts } from '../task-parts.ts'
import type { FrameJob, FrameRecord, FrameRecords } from '../tasks.ts'
import { inTurns } from '../turns.ts'
import { FrameCutter } from './frame-cutter.ts'
import { type Described, SourceMatcher } from './source-matcher.ts'

/** What a frame delta names its parent by. */
export interface ParentNames {
  /** The reference's hash of the parent's stored bytes in name order, hex. */
  readonly parentHash: string
  /** The identity of the parent, hex. */
  readonly parentIdentity: string
}

interface FrameEncoderOptions {
  readonly parent: Recipes
  readonly names: Promise<ParentNames>
  /** Called with the bytes of a file's header, and awaited before it is parsed. */
  readonly headerCame?: ((bytes: number) => Promise<void>) | undefined
}

/** Bytes of frames, and segments that predict them, from which on a batch goes to a worker: frames of small tensors share a task. */
const MAX_BATCH_BYTES = FRAME_BYTES
const MAX_BATCH_SEGMENTS = 1024
/** Frames that one task encodes. */
interface FrameBatch {
  readonly frames: {
    readonly tuned: Uint8Array
    readonly job: Pick<FrameJob, 'dtype' | 'size' | 'lineage'>
    readonly predicted: Prediction<Segment> | null
  }[]
}

/** A tensor whose frames are still coming, and what predicts it. */
type OpenTensor = Described & { readonly parent: Recipe | null }

/**
 * Encodes a fine-tune as a frame delta while its files come in. The parent's frames are read alongside, every record is decoded and compared by the
 * worker that makes it, and nothing of the fine-tune is kept. Memory is bounded by a few frames for each worker.
 */
export class FrameEncoder {
  readonly #names: Promise<ParentNames>
  readonly #headerCame: (bytes: number) => Promise<void>
  readonly #engine: Engine
  readonly #signal: AbortSignal | undefined
  readonly #writer = new FrameDeltaWriter(threadKernels(), sha256())
  readonly #shards: HashedShard[] = []
  readonly #tensors: FrameTensor[] = []
  readonly #frames: { encoding: number; record: number; checksum: bigint }[] = []
  /** The numbers of records, by the SHA-256 of their bytes. */
  readonly #records = new Map<string, number>()
  readonly #matcher: SourceMatcher
  #begun = false

  constructor(
    { parent, names, headerCame = async () => {} }: FrameEncoderOptions,
    engine: Engine,
    signal?: AbortSignal,
  ) {
    this.#names = names
    this.#headerCame = headerCame
    // It is awaited last, or never if something else fails first.
    names.catch(() => {})
    this.#engine = engine
    this.#signal = signal
    this.#matcher = new SourceMatcher(parent, engine, signal)
  }

  /** The shards that have come in full so far. */
  get shards(): readonly HashedShard[] {
    return this.#shards
  }

  /**
   * Takes one safetensors file, and yields the bytes of the delta as they are ready.
   * @throws CodecError for a malformed file, and what reading the parent throws
   */
  async *shard(path: string, body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    if (!this.#begun) yield this.#writer.begin()
    this.#begun = true
    const reader = new LayoutReader()
    const hash = createHash('sha256')
    const { width } = this.#engine
    const under: { batch: FrameBatch; result: Promise<FrameRecords> }[] = []
    for await (const batch of this.#batches(body, reader, hash)) {
      const result = this.#encode(batch)
      // It may fail before its turn.
      result.catch(() => {})
      under.push({ batch, result })
      if (under.length >= width) yield* this.#write(under.shift()!)
    }
    for (const pending of under) yield* this.#write(pending)
    this.#shards.push({ path, layout: reader.end(), sha256: hash.digest('hex') })
  }

  /** Ends the delta: gives the index and what follows it. Rejects with what `names` does. */
  async end(): Promise<Uint8Array[]> {
    const first = this.#begun ? [] : [this.#writer.begin()]
    const frames = this.#frames
    const content = {
      ...(await this.#names),
      shards: this.#shards,
      tensors: this.#tensors,
      frames: {
        encodings: Uint8Array.from(frames, ({ encoding }) => encoding),
        records: Uint32Array.from(frames, ({ record }) => record),
        checksums: BigUint64Array.from(frames, ({ checksum }) => checksum),
      },
    }
    const index = await inTurns(this.#writer.indexSteps(content), this.#signal)
    // The caller holds this encoder until the delta is proven, and for 300,000 tensors these are 100 MB.
    this.#tensors.length = 0
    this.#frames.length = 0
    this.#records.clear()
    const stored = await deflate(index, INDEX_LEVEL)
    return [...first, ...this.#writer.finish(index.length, stored)]
  }

  /** The frames of a shard in batches, as its bytes come. */
  async *#batches(
    body: AsyncIterable<Uint8Array>,
    reader: LayoutReader,
    hash: { update(bytes: Uint8Array): unknown },
  ): AsyncGenerator<FrameBatch> {
    const cutter = new FrameCutter()
    let batch = new OpenFrameBatch()
    let tensor: OpenTensor | null = null
    for await (const chunk of body) {
      hash.update(chunk)
      const known = reader.layout
      const steps = reader.take(chunk)
      if (steps) {
        await this.#headerCame(reader.headerBytes!)
        await inTurns(steps, this.#signal)
      }
      const { layout } = reader
      if (!layout) {
        cutter.hold(chunk)
        continue
      }
      if (!known) cutter.begin(layout.header.length, layout.tensors)
      for (const cut of cutter.push(chunk)) {
        if (cut.frame === 0) {
          // A chunk may hold 16,000 tensors of a few bytes, and any number of empty ones.
          if (this.#tensors.length % STEP_ITEMS === 0) await setImmediate()
          tensor = await this.#open(cut.tensor, cut.bytes)
        }
        if (cut.bytes === null) continue
        batch.add(tensor!, cut.frame, cut.bytes)
        if (!batch.full) continue
        yield batch
        batch = new OpenFrameBatch()
      }
    }
    if (batch.frames.length > 0) yield batch
  }

  /** Begins a tensor whose first frame has come: chooses what predicts it. */
  async #open(placed: LayoutTensor, firstFrame: Uint8Array | null): Promise<OpenTensor> {
    const tensor = sized(placed)
    const parent = await this.#matcher.find(tensor, firstFrame)
    const before = this.#tensors.at(-1)
    const first = before ? before.firstFrame + frameCount(before.bytes) : 0
    const source = parent && { name: parent.name, dtype: parent.dtype, shape: parent.shape }
    this.#tensors.push({ ...tensor, source, firstFrame: first })
    return { ...tensor, parent }
  }

  #encode({ frames }: FrameBatch): Promise<FrameRecords> {
    let hasKept = true
    const source = retriedWhile(this.#engine.source, () => hasKept)
    const make = (parts: TaskParts) => {
      const predictions = frames.map(({ predicted }) => predicted && parts.prediction(predicted))
      // The task takes the fine-tune's bytes over. It gets a copy if the prediction is fetched, because that may fail and be tried again.
      hasKept = parts.isFetching
      const jobs = frames.map(({ tuned, job }, i): FrameJob => {
        const bytes = parts.buffer(hasKept ? new Uint8Array(tuned) : tuned)
        return { ...job, tuned: bytes, prediction: predictions[i]! }
      })
      return { kind: 'encode-frames', frames: jobs } as const
    }
    return this.#engine.over(source).run(make, this.#signal)
  }

  async *#write(pending: {
    batch: FrameBatch
    result: Promise<FrameRecords>
  }): AsyncGenerator<Uint8Array> {
    const { records, bytes } = await pending.result
    for (const record of records) {
      const { encoding, checksum, start, length } = record
      const number = this.#numberOf(record)
      this.#frames.push({
        encoding: ENCODINGS.indexOf(encoding),
        record: number ?? this.#writer.records,
        checksum,
      })
      if (number !== null) continue
      const stored = bytes.subarray(start, start + length)
      yield* this.#writer.record(stored, record.recordChecksum)
    }
  }

  /**
   * The number of an equal record, or NO_RECORD for a frame without one; null for a new record. Compared by SHA-256: an uploader chooses the bytes,
   * so that equal xxh64 prove nothing.
   */
  #numberOf({ encoding, sha256 }: FrameRecord): number | null {
    if (encoding === 'copy') return NO_RECORD
    const known = this.#records.get(sha256)
    if (known !== undefined) return known
    this.#records.set(sha256, this.#writer.records)
    return null
  }
}

function sha256() {
  const hash = createHash('sha256')
  return {
    update: (bytes: Uint8Array) => void hash.update(bytes),
    digest: () => hash.digest(),
  }
}

class OpenFrameBatch implements FrameBatch {
  readonly frames: FrameBatch['frames'] = []
  #bytes = 0
  #segments = 0

  get full(): boolean {
    return this.#bytes >= MAX_BATCH_BYTES || this.#segments >= MAX_BATCH_SEGMENTS
  }

  add({ dtype, parent }: OpenTensor, frame: number, tuned: Uint8Array): void {
    const [start, size] = [frame * FRAME_BYTES, tuned.length]
    const predicted = parent && planPrediction(parent, dtype, { start, end: start + size })
    const lineage = segmentsOf(predicted?.source ?? [])
    this.frames.push({ tuned, job: { dtype, size, lineage }, predicted })
    this.#bytes += size
    this.#segments += 1 + lineage
  }
}
