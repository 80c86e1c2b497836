import type { Hasher } from '../../base/hasher.ts'
import { complete, type Steps } from '../../base/steps.ts'
import type { FrameKernels } from '../../frames/frame-kernels.ts'
import { PREFIX_BYTES_V2, prefixV2, tailBytes } from './format.ts'
import { type IndexContent, writeIndexSteps } from './write-index.ts'

/** zstd level of the index. */
export const INDEX_LEVEL = 9

/**
 * Writes a `.wdelta` of version 2 in one pass: prefix, records as they come, index. Each method gives the next bytes of the file, which are
 * hashed on the way.
 */
export class FrameDeltaWriter {
  readonly #tools: FrameKernels
  readonly #hasher: Hasher
  readonly #lengths: number[] = []
  readonly #checksums: bigint[] = []
  #position = PREFIX_BYTES_V2

  constructor(tools: FrameKernels, hasher: Hasher) {
    this.#tools = tools
    this.#hasher = hasher
  }

  /** Records so far, and so the number of the next one. */
  get records(): number {
    return this.#lengths.length
  }

  /** The prefix. */
  begin(): Uint8Array {
    return this.#hashed(prefixV2())
  }

  /** A record of 1 to FRAME_BYTES bytes; `checksum` is their xxh64. */
  record(stored: Uint8Array, checksum: bigint): Uint8Array[] {
    this.#lengths.push(stored.length)
    this.#checksums.push(checksum)
    this.#position += 4 + stored.length
    return [this.#hashed(word(stored.length)), this.#hashed(stored)]
  }

  /** The index and all that follows it. */
  end(content: Omit<IndexContent, 'records'>): Uint8Array[] {
    const inflated = complete(this.indexSteps(content))
    return this.finish(inflated.length, this.#tools.compression.compress(inflated, INDEX_LEVEL))
  }

  /** The index, not yet compressed, in steps: the first half of {@link end}, whose second half is {@link finish}. */
  *indexSteps(content: Omit<IndexContent, 'records'>): Steps<Uint8Array> {
    const lengths = Uint32Array.from(this.#lengths)
    yield
    const records = { lengths, checksums: BigUint64Array.from(this.#checksums) }
    yield
    return yield* writeIndexSteps({ ...content, records })
  }

  /** What {@link end} gives. `index` is a zstd frame of level {@link INDEX_LEVEL}; `inflated`: bytes of its content. */
  finish(inflated: number, index: Uint8Array): Uint8Array[] {
    const tail = tailBytes({
      offset: this.#position + 8,
      stored: index.length,
      inflated,
      checksum: this.#tools.machine.checksum(index),
    })
    const parts = [word(0), word(index.length), index, tail].map(part => this.#hashed(part))
    return [...parts, this.#hasher.digest()]
  }

  #hashed(bytes: Uint8Array): Uint8Array {
    this.#hasher.update(bytes)
    return bytes
  }
}

function word(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value, true)
  return bytes
}
