import type { Hasher } from '../base/hasher.ts'
import { complete, type Steps } from '../base/steps.ts'
import type { FrameKernels } from '../frames/frame-kernels.ts'
import type { DeltaIndex, RecordDelta } from './delta-index.ts'
import { MAGIC } from './magic.ts'
import { RecordDeltaReader, type RecordDeltaReaderOptions } from './v1/reader.ts'
import { FrameDeltaReader, type StoredIndex } from './v2/reader.ts'

/** Bytes of magic and version. */
const VERSION_BYTES = 11

/**
 * Reads a `.wdelta` of either version that arrives in pieces of any size: its first 11 bytes say which version it is. A file of neither is
 * refused as the reader of version 1 refuses it.
 */
export class WdeltaReader {
  readonly #tools: FrameKernels
  readonly #hasher: Hasher
  readonly #options: RecordDeltaReaderOptions
  readonly #first = new Uint8Array(VERSION_BYTES)
  #held = 0
  #reader: RecordDeltaReader | FrameDeltaReader | null = null

  constructor(tools: FrameKernels, hasher: Hasher, options: RecordDeltaReaderOptions = {}) {
    this.#tools = tools
    this.#hasher = hasher
    this.#options = options
  }

  /** The header of a version 1 file, as soon as all of it has come. */
  get header() {
    return this.#reader instanceof RecordDeltaReader ? this.#reader.header : null
  }

  /** Takes the next bytes of the file; they are not kept. @throws CodecError of kind `delta` */
  push(chunk: Uint8Array): void {
    const steps = this.take(chunk)
    if (steps) complete(steps)
  }

  /** As {@link push}, but gives the steps that are left, as `RecordDeltaReader.take` does. Null if nothing is left to do. */
  take(chunk: Uint8Array): Steps<void> | null {
    if (this.#reader) return take(this.#reader, chunk)
    const taken = chunk.subarray(0, VERSION_BYTES - this.#held)
    this.#first.set(taken, this.#held)
    this.#held += taken.length
    if (this.#held < VERSION_BYTES) return null
    return take(this.#open(), chunk.subarray(taken.length))
  }

  /** Ends the file. @throws CodecError as {@link push} */
  end(): DeltaIndex {
    return (this.#reader ?? this.#open()).end()
  }

  /** Ends the file, in steps. The index of a frame delta is given as it is stored. @throws CodecError as {@link push} */
  *finish(): Steps<RecordDelta | StoredIndex> {
    const reader = this.#reader ?? this.#open()
    return reader instanceof RecordDeltaReader ? yield* reader.finish() : reader.finish()
  }

  #open(): RecordDeltaReader | FrameDeltaReader {
    const isV2 = MAGIC.every((byte, i) => this.#first[i] === byte) && this.#version() === 2
    this.#reader = isV2
      ? new FrameDeltaReader(this.#tools, this.#hasher)
      : new RecordDeltaReader(this.#hasher, this.#options)
    this.#reader.push(this.#first.subarray(0, this.#held))
    return this.#reader
  }

  #version(): number {
    return new DataView(this.#first.buffer).getUint32(MAGIC.length, true)
  }
}

function take(reader: RecordDeltaReader | FrameDeltaReader, chunk: Uint8Array): Steps<void> | null {
  if (reader instanceof RecordDeltaReader) return reader.take(chunk)
  reader.push(chunk)
  return null
}
