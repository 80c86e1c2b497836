import type { LosslessTools } from './coded-frame.ts'
import type { DeltaIndex } from './delta-index.ts'
import { MAGIC } from './wdelta-v1-format.ts'
import { DeltaReader, type DeltaReaderOptions, type Hasher } from './wdelta-v1-reader.ts'
import { LosslessReader } from './wdelta-v2-reader.ts'

/** Bytes up to the end of the version. */
const VERSION_BYTES = 11

/**
 * Reads a `.wdelta` of either version that arrives in pieces of any size: the first 11 bytes say which.
 * What is neither is refused as a version 1 reader refuses it.
 */
export class WdeltaReader {
  readonly #tools: LosslessTools
  readonly #hasher: Hasher
  readonly #options: DeltaReaderOptions
  readonly #first = new Uint8Array(VERSION_BYTES)
  #held = 0
  #reader: DeltaReader | LosslessReader | null = null

  constructor(tools: LosslessTools, hasher: Hasher, options: DeltaReaderOptions = {}) {
    this.#tools = tools
    this.#hasher = hasher
    this.#options = options
  }

  /** The header of a version 1 file, as soon as all of it has come. */
  get header() {
    return this.#reader instanceof DeltaReader ? this.#reader.header : null
  }

  /** Takes the next bytes of the file; they are not kept. @throws CodecError of kind `delta` */
  push(chunk: Uint8Array): void {
    if (this.#reader) {
      this.#reader.push(chunk)
      return
    }
    const taken = chunk.subarray(0, VERSION_BYTES - this.#held)
    this.#first.set(taken, this.#held)
    this.#held += taken.length
    if (this.#held === VERSION_BYTES) this.#open().push(chunk.subarray(taken.length))
  }

  /** Ends the file. @throws CodecError as {@link push} */
  end(): DeltaIndex {
    return (this.#reader ?? this.#open()).end()
  }

  #open(): DeltaReader | LosslessReader {
    const isV2 = MAGIC.every((byte, i) => this.#first[i] === byte) && this.#version() === 2
    this.#reader = isV2
      ? new LosslessReader(this.#tools, this.#hasher)
      : new DeltaReader(this.#hasher, this.#options)
    this.#reader.push(this.#first.subarray(0, this.#held))
    return this.#reader
  }

  #version(): number {
    return new DataView(this.#first.buffer).getUint32(MAGIC.length, true)
  }
}
