import { DIGEST_BYTES, type Hasher } from '../../base/hasher.ts'
import { FRAME_BYTES, LIMITS } from '../../base/limits.ts'
import { complete, type Steps } from '../../base/steps.ts'
import type { FrameKernels } from '../../frames/frame-kernels.ts'
import type { FrameDelta } from '../delta-index.ts'
import { type Program, PushCursor } from '../push-cursor.ts'
import { refuse } from '../refuse.ts'
import { checkPrefixV2, PREFIX_BYTES_V2, parseTail, TAIL_BYTES, type Tail } from './format.ts'
import { parseIndexSteps } from './parse-index.ts'

/** The records of a file as they came: their lengths, and the xxh64 of their stored bytes. */
export interface RecordColumns {
  readonly lengths: Uint32Array
  readonly checksums: BigUint64Array
}

/** The index of a frame delta as it is stored. Its checksum has been compared; it is not inflated yet. */
export interface StoredIndex {
  readonly stored: Uint8Array
  readonly tail: Tail
  /** Bytes of the whole file. */
  readonly size: number
  /** Null if only the end of the file was read. */
  readonly records: RecordColumns | null
}

/**
 * Reads a `.wdelta` of version 2 that arrives in pieces of any size, and gives its index. It checks every length, every checksum of stored
 * bytes, and the SHA-256 at the end. It holds one record, the length and the xxh64 of each, and the index.
 */
export class FrameDeltaReader {
  readonly #tools: FrameKernels
  readonly #hasher: Hasher
  readonly #cursor: PushCursor
  readonly #records = new RecordList()
  #reading = 'the prefix'
  #index: StoredIndex | null = null
  #failure: unknown = null

  constructor(tools: FrameKernels, hasher: Hasher) {
    this.#tools = tools
    this.#hasher = hasher
    this.#cursor = new PushCursor(cursor => this.#parse(cursor))
  }

  /** Takes the next bytes of the file; they are not kept. @throws CodecError of kind `delta` */
  push(chunk: Uint8Array): void {
    if (this.#failure !== null) throw this.#failure
    try {
      complete(this.#cursor.push(chunk))
    } catch (error) {
      this.#failure = error
      throw error
    }
  }

  /** Ends the file. @throws CodecError as {@link push}; `truncated`; as {@link openIndex} */
  end(): FrameDelta {
    return openIndex(this.finish(), this.#tools)
  }

  /** Ends the file, and gives its index as it is stored. @throws CodecError as {@link push}; `truncated` */
  finish(): StoredIndex {
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
      this.#reading = `record ${this.#records.count}`
      const length = wordOf(hashed(yield { take: 4 }))
      if (length === 0) break
      if (length > FRAME_BYTES) {
        refuse('record', `expected at most ${FRAME_BYTES} bytes, got ${length}`, cursor.position)
      }
      if (this.#records.count === LIMITS.frames) {
        refuse('record', `expected at most ${LIMITS.frames} records`, cursor.position)
      }
      const stored = hashed(yield { take: length })
      this.#records.add(length, this.#tools.machine.checksum(stored))
    }
    this.#reading = 'the index'
    const length = wordOf(hashed(yield { take: 4 }))
    checkStoredBytes(length, cursor.position)
    // A copy: of a Buffer, slice would give a view.
    const stored = new Uint8Array(hashed(yield { take: length }))
    this.#reading = 'the tail'
    const size = cursor.position + TAIL_BYTES
    const bytes = new Uint8Array(yield { take: TAIL_BYTES })
    hashed(bytes.subarray(0, TAIL_BYTES - DIGEST_BYTES))
    checkDigest(this.#hasher.digest(), bytes.subarray(TAIL_BYTES - DIGEST_BYTES))
    const tail = parseTail(bytes, size)
    this.#index = sealedIndex({ stored, tail, size, records: this.#records.columns() }, this.#tools)
    for (;;) {
      yield { take: 1 }
      refuse('stray-bytes', 'the file goes on after its end', size)
    }
  }
}

/** The columns of records while these come: memory grows by doubling. */
class RecordList {
  #lengths = new Uint32Array(64)
  #checksums = new BigUint64Array(64)
  #count = 0

  get count(): number {
    return this.#count
  }

  add(length: number, checksum: bigint): void {
    if (this.#count === this.#lengths.length) {
      const [lengths, checksums] = [this.#lengths, this.#checksums]
      this.#lengths = new Uint32Array(this.#count * 2)
      this.#lengths.set(lengths)
      this.#checksums = new BigUint64Array(this.#count * 2)
      this.#checksums.set(checksums)
    }
    this.#lengths[this.#count] = length
    this.#checksums[this.#count] = checksum
    this.#count++
  }

  columns(): RecordColumns {
    const { count } = this
    return {
      lengths: this.#lengths.subarray(0, count),
      checksums: this.#checksums.subarray(0, count),
    }
  }
}

/** Records that one step compares. */
const STEP_RECORDS = 65_536
/** Bytes at the end of a file that are read first: they hold the index of most files. */
const LIKELY_TAIL_BYTES = 65_536

/**
 * The stored index of a file of `size` bytes, by one read of its end, or two if the index is large. `read` gives bytes `[start, end)`. The
 * checksum of the index is compared; those of the records and the SHA-256 of the file are not.
 * @throws CodecError `too-short`, `tail`, `index-size`, `index-checksum`
 */
export async function readStoredIndex(
  read: (start: number, end: number) => Promise<Uint8Array>,
  size: number,
  tools: Pick<FrameKernels, 'machine'>,
): Promise<StoredIndex> {
  if (size < PREFIX_BYTES_V2 + TAIL_BYTES) refuse('too-short', `a file of ${size} bytes`)
  const start = Math.max(0, size - LIKELY_TAIL_BYTES)
  const end = await read(start, size)
  const tail = parseTail(end.subarray(end.length - TAIL_BYTES), size)
  const { offset, stored: length } = tail
  checkStoredBytes(length, offset - 4)
  const stored =
    offset >= start
      ? end.subarray(offset - start, offset - start + length)
      : await read(offset, offset + length)
  return sealedIndex({ stored, tail, size, records: null }, tools)
}

/** The index of a file of `size` bytes, read as by {@link readStoredIndex}. Rejects with CodecError as that does, and as {@link openIndex} throws. */
export async function readIndex(
  read: (start: number, end: number) => Promise<Uint8Array>,
  size: number,
  tools: FrameKernels,
): Promise<FrameDelta> {
  return openIndex(await readStoredIndex(read, size, tools), tools)
}

/** Inflates and parses an index. @throws CodecError `zstd`, and as {@link indexSteps} */
export function openIndex(index: StoredIndex, { compression }: FrameKernels): FrameDelta {
  const inflated = compression.decompress(index.stored, index.tail.inflated)
  return complete(indexSteps(index, inflated))
}

/**
 * Parses an index, inflated, in steps, and compares it with the records that came. `maxBytes`: most bytes of the model that it describes.
 * @throws CodecError as `parseIndexSteps`; `record`, `record-checksum` if other records came than it names
 */
export function* indexSteps(
  { tail, size, records }: StoredIndex,
  inflated: Uint8Array,
  maxBytes: number = Number.POSITIVE_INFINITY,
): Steps<FrameDelta> {
  const came = records ? records.lengths.length : null
  const bounds = { size, indexAt: tail.offset, records: came, maxBytes, stored: tail.stored }
  const index = yield* parseIndexSteps(inflated, bounds)
  if (records) yield* checkRecords(index, records)
  return index
}

function* checkRecords({ records }: FrameDelta, came: RecordColumns): Steps<void> {
  for (let i = 0; i < came.lengths.length; i++) {
    if (i % STEP_RECORDS === 0) yield
    if (came.lengths[i] !== records.lengths[i]) {
      const found = `${came.lengths[i]} bytes, the index says ${records.lengths[i]}`
      refuse('record', `record ${i} has ${found}`, records.starts[i] ?? null)
    }
    if (came.checksums[i] === records.checksums[i]) continue
    refuse('record-checksum', `record ${i}: other bytes than the index says`, records.starts[i])
  }
}

/** Compares the checksum of a stored index. @throws CodecError `index-checksum` */
function sealedIndex(index: StoredIndex, { machine }: Pick<FrameKernels, 'machine'>): StoredIndex {
  const { stored, tail } = index
  const checksum = machine.checksum(stored)
  if (checksum !== tail.checksum) {
    refuse('index-checksum', `expected xxh64 ${tail.checksum}, got ${checksum}`, tail.offset)
  }
  return index
}

function checkStoredBytes(length: number, at: number): void {
  if (length <= LIMITS.storedIndexBytes) return
  const expected = `expected an index of at most ${LIMITS.storedIndexBytes} bytes`
  refuse('index-size', `${expected}, got ${length}`, at)
}

function checkDigest(found: Uint8Array, expected: Uint8Array): void {
  if (found.every((byte, i) => byte === expected[i])) return
  refuse('checksum', 'expected another SHA-256 at the end of the file: it is damaged')
}

function wordOf(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, 4).getUint32(0, true)
}
