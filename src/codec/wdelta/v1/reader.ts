import { namedTensor } from '../../base/errors.ts'
import { DIGEST_BYTES, type Hasher } from '../../base/hasher.ts'
import { LIMITS } from '../../base/limits.ts'
import { begin, complete, STEP_ITEMS, type Steps } from '../../base/steps.ts'
import { utf8 } from '../../base/utf8.ts'
import type { RecordDelta, RecordTensor } from '../delta-index.ts'
import { MAGIC } from '../magic.ts'
import { type Program, PushCursor } from '../push-cursor.ts'
import { refuse } from '../refuse.ts'
import { Aligner } from './checks.ts'
import { type ArrayField, PREFIX_BYTES, type RecordDeltaHeader } from './format.ts'
import { parseRecordDeltaHeaderSteps } from './header.ts'
import { TensorArrays } from './tensor.ts'

export interface RecordDeltaReaderOptions {
  /** Bytes of the whole file, if known in advance: lengths beyond its end are then refused when they are claimed. */
  readonly fileSize?: number
  /** Most elements of all tensors together; LIMITS.elements if absent. */
  readonly maxElements?: number
  /** Called once with the header, before the bytes after it are looked at. What it throws ends the reading. */
  readonly onHeader?: (header: RecordDeltaHeader) => void
}

/** Least length that a double may not hold exactly. No file is as long. */
const INEXACT = 2 ** 53
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * Reads a `.wdelta` of version 1 that arrives in pieces of any size, and makes its index. It checks every byte that has a meaning, and the
 * SHA-256 at the end. It holds the header and what the index keeps, but no array. The push that shows a fault throws it, and so does every
 * call after that. The last 32 bytes pushed are held back, because they may be the trailer.
 * Source: deltatensors 0.2.0 `format.py`. It is stricter where the reference would misread a file in silence.
 */
export class RecordDeltaReader {
  readonly #hasher: Hasher
  readonly #options: RecordDeltaReaderOptions
  readonly #cursor: PushCursor
  readonly #aligner = new Aligner()
  readonly #tensors = new Map<string, TensorArrays>()
  /** Tensors in the order of their first record. */
  readonly #order = new Set<TensorArrays>()
  readonly #tail = new Uint8Array(DIGEST_BYTES)
  #tailBytes = 0
  #header: RecordDeltaHeader | null = null
  /** Offset of the record that is being read; null before the first. */
  #record: number | null = null
  /** What is being read, for messages. */
  #reading = 'the prefix'
  #failure: unknown = null
  #index: RecordDelta | null = null

  constructor(hasher: Hasher, options: RecordDeltaReaderOptions = {}) {
    this.#hasher = hasher
    this.#options = options
    this.#cursor = new PushCursor(cursor => this.#parse(cursor))
  }

  /** The header, as soon as all of it has come. */
  get header(): RecordDeltaHeader | null {
    return this.#header
  }

  /**
   * Takes the next bytes of the file; they are not kept.
   * @throws CodecError of kind `delta`; its `rule` names the class of fault
   */
  push(chunk: Uint8Array): void {
    complete(this.#taking(chunk))
  }

  /**
   * As {@link push}, but if the bytes complete the header, it gives the steps that are left, to be run before this reader is used again;
   * `chunk` must not change until then. Null if nothing is left to do.
   */
  take(chunk: Uint8Array): Steps<void> | null {
    return begin(this.#taking(chunk))
  }

  /**
   * Ends the file: checks the trailer, and that nothing is missing.
   * @throws CodecError as {@link push}; `too-short`, `checksum`, `truncated`, `stray-bytes`, `overrun`, `array-missing`
   */
  end(): RecordDelta {
    return complete(this.finish())
  }

  /** {@link end} in steps. */
  finish(): Steps<RecordDelta> {
    return this.#guard(this.#finish())
  }

  *#guard<T>(work: Steps<T>): Steps<T> {
    if (this.#failure !== null) throw this.#failure
    try {
      return yield* work
    } catch (error) {
      this.#failure = error
      throw error
    }
  }

  #taking(chunk: Uint8Array): Steps<void> {
    return this.#guard(this.#read(chunk))
  }

  *#read(chunk: Uint8Array): Steps<void> {
    const fed = this.#tailBytes + chunk.length - DIGEST_BYTES
    const fromTail = Math.min(Math.max(fed, 0), this.#tailBytes)
    yield* this.#feed(this.#tail.subarray(0, fromTail))
    this.#tail.copyWithin(0, fromTail, this.#tailBytes)
    this.#tailBytes -= fromTail
    const fromChunk = Math.max(fed - fromTail, 0)
    yield* this.#feed(chunk.subarray(0, fromChunk))
    this.#tail.set(chunk.subarray(fromChunk), this.#tailBytes)
    this.#tailBytes += chunk.length - fromChunk
  }

  *#feed(bytes: Uint8Array): Steps<void> {
    if (bytes.length === 0) return
    this.#hasher.update(bytes)
    yield* this.#cursor.push(bytes)
    const limit = this.#payloadEnd()
    if (this.#cursor.position > limit) {
      const message = `more bytes than the ${limit + DIGEST_BYTES} announced`
      refuse('file-size', message, limit + DIGEST_BYTES)
    }
  }

  /** The greatest offset at which the trailer may begin. */
  #payloadEnd(): number {
    const { fileSize } = this.#options
    return fileSize === undefined ? Number.MAX_SAFE_INTEGER : fileSize - DIGEST_BYTES
  }

  *#parse(cursor: PushCursor): Program {
    const prefix = yield { take: PREFIX_BYTES }
    const headerLength = this.#readPrefix(prefix)
    this.#reading = 'the header'
    const json = yield { take: headerLength }
    yield { steps: this.#openHeader(json) }
    for (;;) {
      const start = cursor.position
      this.#record = start
      this.#reading = 'the header of an array record'
      const nameLength = this.#stringLength(yield { take: 4 }, 'name', LIMITS.nameBytes, start)
      const name = yield { take: nameLength + 4 }
      const tensor = this.#tensor(this.#text(name, start + 4), start)
      const fieldLength = this.#stringLength(name, 'field', LIMITS.fieldBytes, cursor.position - 4)
      const fieldStart = cursor.position
      const fieldBytes = yield { take: fieldLength + 4 }
      const field = tensor.field(this.#text(fieldBytes, fieldStart), fieldStart)
      const dtypeLength = this.#stringLength(
        fieldBytes,
        'dtype',
        LIMITS.dtypeBytes,
        cursor.position - 4,
      )
      const dtypeStart = cursor.position
      const dtype = yield { take: dtypeLength + 4 }
      this.#checkDtype(tensor, field, this.#text(dtype, dtypeStart), dtypeStart)
      this.#checkRank(tensor, field, dtype, cursor.position - 4)
      const lengths = yield { take: 16 }
      const items = this.#arrayItems(tensor, field, lengths, cursor.position - 16)
      const check = tensor.begin(field, items, cursor.position, this.#aligner)
      this.#order.add(tensor)
      this.#reading = `${namedTensor(tensor.entry.name)}, array ${field.name}`
      if (items > 0) yield { stream: items * field.itemBytes, to: check }
    }
  }

  #readPrefix(prefix: Uint8Array): number {
    if (MAGIC.some((byte, i) => prefix[i] !== byte)) {
      refuse('magic', 'not a .wdelta file: it does not begin with "wdelta" and a zero byte', 0)
    }
    const version = uint32(prefix, MAGIC.length)
    if (version !== 1) refuse('version', `expected .wdelta version 1, got ${version}`, MAGIC.length)
    const length = uint32(prefix, MAGIC.length + 4)
    const most = Math.min(LIMITS.headerBytes, this.#payloadEnd() - PREFIX_BYTES)
    if (length === 0 || length > most) {
      refuse(
        'header-length',
        `expected a header of 1 to ${most} bytes, got ${length}`,
        MAGIC.length + 4,
      )
    }
    return length
  }

  *#openHeader(json: Uint8Array): Steps<void> {
    const header = yield* parseRecordDeltaHeaderSteps(json, PREFIX_BYTES)
    const { maxElements = LIMITS.elements } = this.#options
    let elements = 0
    let bytes = this.#cursor.position
    for (const entry of header.tensors) {
      if (this.#tensors.size % STEP_ITEMS === 0) yield
      const arrays = new TensorArrays(entry)
      this.#tensors.set(entry.name, arrays)
      elements += entry.count
      bytes += arrays.missingBytes(utf8(entry.name).length)
    }
    if (elements > maxElements) {
      const came = `the header's tensors have ${elements} elements`
      refuse('too-many-elements', `${came}, expected at most ${maxElements}`, PREFIX_BYTES)
    }
    if (bytes > this.#payloadEnd()) {
      const came = `a file of ${this.#payloadEnd() + DIGEST_BYTES} bytes`
      refuse(
        'file-size',
        `the header's arrays take at least ${bytes} bytes, in ${came}`,
        PREFIX_BYTES,
      )
    }
    this.#header = header
    this.#options.onHeader?.(header)
  }

  /** The uint32 that ends `bytes`: the length of the string after them. */
  #stringLength(bytes: Uint8Array, what: string, most: number, offset: number): number {
    const length = uint32(bytes, bytes.length - 4)
    if (length > most) {
      const message = `array record: expected a ${what} of at most ${most} bytes, got ${length}`
      refuse('string-length', message, offset)
    }
    return length
  }

  /** The string in front of the uint32 that ends `bytes`. */
  #text(bytes: Uint8Array, offset: number): string {
    try {
      return decoder.decode(bytes.subarray(0, bytes.length - 4))
    } catch {
      return refuse('string-utf8', 'array record: a string is not valid UTF-8', offset)
    }
  }

  #tensor(name: string, offset: number): TensorArrays {
    const tensor = this.#tensors.get(name)
    if (!tensor)
      refuse('array-tensor', `array of ${namedTensor(name)}, which the header lacks`, offset)
    return tensor
  }

  #checkDtype(tensor: TensorArrays, field: ArrayField, dtype: string, offset: number): void {
    if (dtype === field.dtype) return
    const at = `${namedTensor(tensor.entry.name)}, array ${field.name}`
    const came = `got ${JSON.stringify(dtype)}`
    refuse('array-dtype', `${at}: expected dtype ${field.dtype}, ${came}`, offset)
  }

  #checkRank(tensor: TensorArrays, field: ArrayField, bytes: Uint8Array, offset: number): void {
    const rank = uint32(bytes, bytes.length - 4)
    if (rank === 1) return
    const at = `${namedTensor(tensor.entry.name)}, array ${field.name}`
    refuse('array-rank', `${at}: expected 1 dimension, got ${rank}`, offset)
  }

  /** The dimension and the data length of an array, which must agree with each other and with the file. */
  #arrayItems(tensor: TensorArrays, field: ArrayField, bytes: Uint8Array, offset: number): number {
    const at = `${namedTensor(tensor.entry.name)}, array ${field.name}`
    const items = uint64(bytes, 0)
    const length = uint64(bytes, 8)
    if (items * field.itemBytes !== length || length >= INEXACT) {
      const message = `${at}: ${items} elements of ${field.itemBytes} bytes in ${length} bytes of data`
      refuse('data-length', message, offset)
    }
    const left = this.#payloadEnd() - offset - 16
    if (length > left) refuse('overrun', `${at}: ${length} bytes of data, ${left} left`, offset + 8)
    return items
  }

  *#finish(): Steps<RecordDelta> {
    if (this.#index) return this.#index
    const payload = this.#cursor.position
    const size = payload + this.#tailBytes
    if (payload < PREFIX_BYTES) {
      refuse(
        'too-short',
        `a .wdelta has at least ${PREFIX_BYTES + DIGEST_BYTES} bytes, got ${size}`,
      )
    }
    const digest = this.#hasher.digest()
    const intact = this.#tail.every((byte, i) => byte === digest[i])
    if (payload !== this.#record) this.#refuseEnd(intact, payload)
    if (!intact) {
      refuse('checksum', 'the last 32 bytes are not the SHA-256 of the bytes before them', payload)
    }
    for (const tensor of this.#tensors.values()) if (!this.#order.has(tensor)) tensor.finish()
    const { parentHash, strategy } = this.#header!
    const tensors: RecordTensor[] = []
    for (const tensor of this.#order) {
      if (tensors.length % STEP_ITEMS === 0) yield
      tensors.push(tensor.finish())
    }
    this.#index = { format: 1, parentHash, strategy, size, tensors }
    return this.#index
  }

  /** Refuses a file that ends within something: it was cut off if its trailer is wrong, else written so. */
  #refuseEnd(intact: boolean, payload: number): never {
    if (!intact) {
      refuse(
        'truncated',
        `the file is damaged or cut off: it ends within ${this.#reading}`,
        payload,
      )
    }
    if (this.#record !== null && payload - this.#record < 4) {
      refuse('stray-bytes', 'bytes between the last array and the checksum', this.#record)
    }
    return refuse('overrun', `the checksum begins within ${this.#reading}`, payload)
  }
}

function uint32(bytes: Uint8Array, at: number): number {
  const low = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16)
  return (low | (bytes[at + 3]! << 24)) >>> 0
}

/** A little-endian uint64 as a double: exact below 2^53. */
function uint64(bytes: Uint8Array, at: number): number {
  return uint32(bytes, at) + uint32(bytes, at + 4) * 2 ** 32
}
