import type { LosslessTools } from './coded-frame.ts'
import type { LosslessIndex } from './delta-index.ts'
import { FRAME_BYTES } from './limits.ts'
import { type Program, PushCursor } from './push-cursor.ts'
import { refuse } from './wdelta-v1-format.ts'
import type { Hasher } from './wdelta-v1-reader.ts'
import {
  checkPrefixV2,
  DIGEST_BYTES,
  PREFIX_BYTES_V2,
  parseTail,
  TAIL_BYTES,
  type Tail,
} from './wdelta-v2-format.ts'
import { parseIndex } from './wdelta-v2-index.ts'

/** Longest stored index: one that inflates to the most that an index may. */
const STORED_INDEX_BYTES = 128 * 1024 * 1024

/**
 * Reads a `.wdelta` of version 2 that arrives in pieces of any size and gives its index. Checks every length and every checksum of
 * stored bytes and the SHA-256 at the end; holds one record, the length and xxh64 of each, and the index.
 */
export class LosslessReader {
  readonly #tools: LosslessTools
  readonly #hasher: Hasher
  readonly #cursor: PushCursor
  readonly #lengths: number[] = []
  readonly #checksums: bigint[] = []
  #reading = 'the prefix'
  #index: LosslessIndex | null = null
  #failure: unknown = null

  constructor(tools: LosslessTools, hasher: Hasher) {
    this.#tools = tools
    this.#hasher = hasher
    this.#cursor = new PushCursor(cursor => this.#parse(cursor))
  }

  /** Takes the next bytes of the file; they are not kept. @throws CodecError of kind `delta` */
  push(chunk: Uint8Array): void {
    if (this.#failure !== null) throw this.#failure
    try {
      this.#cursor.push(chunk)
    } catch (error) {
      this.#failure = error
      throw error
    }
  }

  /** Ends the file. @throws CodecError as {@link push}; `truncated` */
  end(): LosslessIndex {
    if (this.#failure !== null) throw this.#failure
    return (
      this.#index ?? refuse('truncated', `the file ends in ${this.#reading}`, this.#cursor.position)
    )
  }

  *#parse(cursor: PushCursor): Program {
    const hashed = (bytes: Uint8Array) => {
      this.#hasher.update(bytes)
      return bytes
    }
    checkPrefixV2(hashed(yield { take: PREFIX_BYTES_V2 }))
    for (;;) {
      this.#reading = `record ${this.#lengths.length}`
      const length = wordOf(hashed(yield { take: 4 }))
      if (length === 0) break
      if (length > FRAME_BYTES) {
        refuse('record', `expected at most ${FRAME_BYTES} bytes, got ${length}`, cursor.position)
      }
      const stored = hashed(yield { take: length })
      this.#lengths.push(length)
      this.#checksums.push(this.#tools.machine.checksum(stored))
    }
    this.#reading = 'the index'
    const length = wordOf(hashed(yield { take: 4 }))
    if (length > STORED_INDEX_BYTES) {
      refuse('index-size', `an index of ${length} bytes`, cursor.position)
    }
    const stored = hashed(yield { take: length }).slice()
    this.#reading = 'the tail'
    const size = cursor.position + TAIL_BYTES
    const bytes = (yield { take: TAIL_BYTES }).slice()
    hashed(bytes.subarray(0, TAIL_BYTES - DIGEST_BYTES))
    checkDigest(this.#hasher.digest(), bytes.subarray(TAIL_BYTES - DIGEST_BYTES))
    const index = openIndex(stored, parseTail(bytes, size), size, this.#tools)
    this.#checkRecords(index)
    this.#index = index
    for (;;) {
      yield { take: 1 }
      refuse('stray-bytes', 'the file goes on after its end', size)
    }
  }

  #checkRecords({ records }: LosslessIndex): void {
    for (let i = 0; i < Math.max(this.#lengths.length, records.lengths.length); i++) {
      if (this.#lengths[i] !== records.lengths[i]) {
        const came = `${this.#lengths[i] ?? 'no'} bytes, the index says ${records.lengths[i]}`
        refuse('record', `record ${i} has ${came}`, records.starts[i] ?? null)
      }
      if (this.#checksums[i] === records.checksums[i]) continue
      refuse('record-checksum', `record ${i}: other bytes than the index says`, records.starts[i])
    }
  }
}

/** Bytes at the end of a file that hold the index of most. */
const LIKELY_TAIL_BYTES = 65_536

/**
 * The index of a file of `size` bytes, by one read of its end, or two if it is large. `read` gives bytes `[start, end)`. The checksum of the
 * index is verified; those of the records are not, nor the SHA-256 of the file.
 * @throws CodecError `too-short`, and as {@link openIndex}
 */
export async function readIndex(
  read: (start: number, end: number) => Promise<Uint8Array>,
  size: number,
  tools: LosslessTools,
): Promise<LosslessIndex> {
  if (size < PREFIX_BYTES_V2 + TAIL_BYTES) refuse('too-short', `a file of ${size} bytes`)
  const start = Math.max(0, size - LIKELY_TAIL_BYTES)
  const end = await read(start, size)
  const tail = parseTail(end.subarray(end.length - TAIL_BYTES), size)
  const { offset, stored } = tail
  const index =
    offset >= start
      ? end.subarray(offset - start, offset - start + stored)
      : await read(offset, offset + stored)
  return openIndex(index, tail, size, tools)
}

/**
 * The index of a file of `size` bytes from its stored bytes, those that `tail` names.
 * @throws CodecError `index-checksum`, and as `parseIndex`
 */
export function openIndex(
  stored: Uint8Array,
  tail: Tail,
  size: number,
  { machine, compression }: LosslessTools,
): LosslessIndex {
  const checksum = machine.checksum(stored)
  if (checksum !== tail.checksum) {
    refuse('index-checksum', `expected xxh64 ${tail.checksum}, got ${checksum}`, tail.offset)
  }
  return parseIndex(compression.decompress(stored, tail.inflated), size, tail.offset)
}

function checkDigest(found: Uint8Array, expected: Uint8Array): void {
  if (found.every((byte, i) => byte === expected[i])) return
  refuse('checksum', 'expected another SHA-256 at the end of the file: it is damaged')
}

function wordOf(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true)
}
