import type { LosslessIndex, LosslessShard, LosslessSource, LosslessTensor } from './delta-index.ts'
import { DTYPE_BITS, isDtype, isFloat } from './dtypes.ts'
import { CodecError } from './errors.ts'
import { FRAME_BYTES, LIMITS } from './limits.ts'
import { ENCODINGS } from './lossless.ts'
import { assembleTensors, checkPath } from './model-folder.ts'
import { readHeader } from './safetensors.ts'
import { checkName, utf8 } from './utf8.ts'
import { quoted, refuse } from './wdelta-v1-format.ts'
import { frameCount, NO_RECORD, PREFIX_BYTES_V2, sized } from './wdelta-v2-format.ts'

/** Bytes of the length word in front of a safetensors header. */
const LENGTH_BYTES = 8
const HASH_BYTES = 32
const NO_SOURCE = 0
const SAME_NAME = 1
const OTHER_NAME = 2
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** What {@link writeIndex} takes: an index before its file has a size; records begin where their lengths put them. */
export type IndexContent = Pick<
  LosslessIndex,
  'parentHash' | 'parentIdentity' | 'shards' | 'tensors' | 'frames'
> & { readonly records: Pick<LosslessIndex['records'], 'lengths' | 'checksums'> }

/** The bytes of an index, not yet compressed: see `FORMAT.md`, "Index". */
export function writeIndex(content: IndexContent): Uint8Array {
  const { shards, tensors, records, frames } = content
  const out = new ByteWriter()
  out.bytes(fromHex(content.parentIdentity))
  out.bytes(fromHex(content.parentHash))
  out.u32(shards.length)
  for (const { path, layout, sha256 } of shards) {
    out.text16(path)
    out.u32(layout.header.length - LENGTH_BYTES)
    out.bytes(layout.header.subarray(LENGTH_BYTES))
    out.bytes(fromHex(sha256))
  }
  out.u32(records.lengths.length)
  out.column(records.lengths)
  out.wideColumn(records.checksums)
  out.u32(tensors.length)
  for (const { name, source } of tensors) writeSource(out, name, source)
  out.u32(frames.encodings.length)
  out.bytes(frames.encodings)
  out.column(frames.records)
  out.wideColumn(frames.checksums)
  return out.end()
}

function writeSource(out: ByteWriter, name: string, source: LosslessSource | null): void {
  out.u8(source === null ? NO_SOURCE : source.name === name ? SAME_NAME : OTHER_NAME)
  if (source === null) return
  out.text8(source.dtype)
  out.u8(source.shape.length)
  for (const dimension of source.shape) out.u64(dimension)
  if (source.name !== name) out.text16(source.name)
}

/**
 * Parses an index, inflated, of a file of `size` bytes whose stored index begins at `indexAt`.
 * @throws CodecError of kind `delta`: `index`, `shard`, `source`, `record`, `frame`, `encoding`; what safetensors headers, names and paths are
 * refused for
 */
export function parseIndex(bytes: Uint8Array, size: number, indexAt: number): LosslessIndex {
  const input = new ByteReader(bytes)
  const parentIdentity = toHex(input.bytes(HASH_BYTES))
  const parentHash = toHex(input.bytes(HASH_BYTES))
  const shards = readShards(input)
  const records = readRecords(input, indexAt)
  const tensors = readTensors(input, shards)
  const frames = readFrames(input, tensors)
  input.end()
  checkFrames(tensors, frames, records.lengths)
  const index = { format: 2, strategy: 'lossless', parentHash, parentIdentity, size } as const
  return { ...index, shards, tensors, records, frames }
}

function readShards(input: ByteReader): LosslessShard[] {
  const count = input.u32()
  if (count < 1 || count > LIMITS.shards) {
    refuse('shard', `expected 1 to ${LIMITS.shards} shards, got ${count}`)
  }
  const shards: LosslessShard[] = []
  const paths = new Set<string>()
  for (let i = 0; i < count; i++) {
    const path = input.text(input.u16())
    checkPath(path)
    if (!path.endsWith('.safetensors') || paths.has(path)) {
      refuse('shard', `shard ${i}: ${JSON.stringify(path)} is no safetensors file, or comes twice`)
    }
    paths.add(path)
    const length = input.u32()
    const header = new Uint8Array(LENGTH_BYTES + length)
    header.set(input.bytes(length), LENGTH_BYTES)
    new DataView(header.buffer).setUint32(0, length, true)
    if (length > LIMITS.headerBytes) {
      refuse('shard', `a header of at most ${LIMITS.headerBytes} bytes, got ${length}`)
    }
    shards.push({ path, layout: readHeader(header), sha256: toHex(input.bytes(HASH_BYTES)) })
  }
  assembleTensors(shards)
  return shards
}

function readRecords(input: ByteReader, indexAt: number): LosslessIndex['records'] {
  const count = input.u32()
  const lengths = input.column(count)
  const checksums = input.wideColumn(count)
  const starts = new Float64Array(count)
  // Each record, and the end of all, has a word of its length in front.
  let at = PREFIX_BYTES_V2 + 4
  for (let i = 0; i < count; i++) {
    const length = lengths[i]!
    if (length < 1 || length > FRAME_BYTES) {
      refuse('record', `record ${i}: expected 1 to ${FRAME_BYTES} bytes, got ${length}`)
    }
    starts[i] = at
    at += length + 4
  }
  if (at + 4 !== indexAt) {
    refuse('record', `the records end at ${at + 4}, expected ${indexAt}, where the index begins`)
  }
  return { starts, lengths, checksums }
}

function readTensors(input: ByteReader, shards: readonly LosslessShard[]): LosslessTensor[] {
  const described = shards.flatMap(({ layout }) => layout.tensors)
  const count = input.u32()
  if (count !== described.length) {
    refuse('index', `expected ${described.length} tensors, as the headers name, got ${count}`)
  }
  let firstFrame = 0
  return described.map(placed => {
    const tensor = { ...sized(placed), firstFrame, source: readSource(input, placed.name) }
    firstFrame += frameCount(tensor.bytes)
    if (tensor.source) checkSource(tensor, tensor.source)
    return tensor
  })
}

function readSource(input: ByteReader, name: string): LosslessSource | null {
  const kind = input.u8()
  if (kind === NO_SOURCE) return null
  if (kind !== SAME_NAME && kind !== OTHER_NAME) {
    refuse('source', `${quoted(name)}: expected a source of kind 0, 1 or 2, got ${kind}`)
  }
  const dtype = input.text(input.u8())
  if (!isDtype(dtype)) return refuse('source', `${quoted(name)}: no dtype ${JSON.stringify(dtype)}`)
  const rank = input.u8()
  if (rank > LIMITS.rank) refuse('source', `${quoted(name)}: a source of ${rank} dimensions`)
  const shape = Array.from({ length: rank }, () => input.u64())
  const other = kind === SAME_NAME ? name : input.text(input.u16())
  if (kind === OTHER_NAME) {
    checkName('delta', other, null)
    if (other === name) refuse('source', `${quoted(name)}: a source of another name has the same`)
  }
  return { name: other, dtype, shape }
}

/** True if a tensor of the parent can predict one: frames of both begin at the same elements, and its values can be cast. */
export function canPredict(
  source: Pick<LosslessSource, 'dtype' | 'shape'>,
  tensor: Pick<LosslessTensor, 'dtype' | 'shape'>,
): boolean {
  const alike = source.dtype === tensor.dtype || (isFloat(source.dtype) && isFloat(tensor.dtype))
  if (!alike || source.shape.length !== tensor.shape.length) return false
  return source.shape.every((dimension, i) => i === 0 || dimension === tensor.shape[i])
}

function checkSource(tensor: LosslessTensor, source: LosslessSource): void {
  if (!canPredict(source, tensor)) {
    const came = `${source.dtype} [${source.shape}] for ${tensor.dtype} [${tensor.shape}]`
    refuse('source', `${quoted(tensor.name)}: a source cannot be ${came}`)
  }
  let bits = DTYPE_BITS[source.dtype]
  for (const dimension of source.shape) {
    bits *= dimension
    // A source of another first dimension may be larger than its tensor, but no tensor is as large as this.
    if (bits > LIMITS.elements * 64) refuse('source', `${quoted(tensor.name)}: a source too large`)
  }
  if (bits % 8 !== 0) refuse('source', `${quoted(tensor.name)}: a source that is no whole bytes`)
}

function readFrames(
  input: ByteReader,
  tensors: readonly LosslessTensor[],
): LosslessIndex['frames'] {
  const expected = tensors.reduce((sum, { bytes }) => sum + frameCount(bytes), 0)
  const count = input.u32()
  if (count !== expected) refuse('frame', `expected ${expected} frames, got ${count}`)
  const encodings = input.bytes(count).slice()
  return { encodings, records: input.column(count), checksums: input.wideColumn(count) }
}

/** Every frame has a record that can be its, and every record a frame. */
function checkFrames(
  tensors: readonly LosslessTensor[],
  { encodings, records }: LosslessIndex['frames'],
  lengths: Uint32Array,
): void {
  let next = 0
  for (const { name, bytes, firstFrame } of tensors) {
    for (let i = 0; i < frameCount(bytes); i++) {
      const frame = firstFrame + i
      const record = records[frame]!
      const at = `${quoted(name)}, frame ${i}`
      const encoding = ENCODINGS[encodings[frame]!]
      if (!encoding) refuse('encoding', `${at}: no encoding has number ${encodings[frame]}`)
      if ((encoding === 'copy') !== (record === NO_RECORD)) {
        refuse('frame', `${at}: ${encoding} with record ${record}`)
      }
      if (encoding === 'copy') continue
      if (record > next || record >= lengths.length) {
        refuse('frame', `${at}: expected record ${next} or one before, got ${record}`)
      }
      if (record === next) next++
      const size = Math.min(FRAME_BYTES, bytes - i * FRAME_BYTES)
      if (lengths[record]! > size) {
        refuse('frame', `${at}: a record of ${lengths[record]} bytes for ${size}`)
      }
    }
  }
  if (next < lengths.length) refuse('record', `no frame names record ${next}`)
}

class ByteWriter {
  #bytes = new Uint8Array(4096)
  #size = 0

  bytes(bytes: Uint8Array): void {
    this.#room(bytes.length).set(bytes)
  }

  u8(value: number): void {
    this.#room(1)[0] = value
  }

  u16(value: number): void {
    this.#view(2).setUint16(0, value, true)
  }

  u32(value: number): void {
    this.#view(4).setUint32(0, value, true)
  }

  u64(value: number): void {
    this.#view(8).setBigUint64(0, BigInt(value), true)
  }

  text8(text: string): void {
    const bytes = utf8(text)
    this.u8(bytes.length)
    this.bytes(bytes)
  }

  text16(text: string): void {
    const bytes = utf8(text)
    this.u16(bytes.length)
    this.bytes(bytes)
  }

  column(values: Uint32Array): void {
    const view = this.#view(values.length * 4)
    for (let i = 0; i < values.length; i++) view.setUint32(i * 4, values[i]!, true)
  }

  wideColumn(values: BigUint64Array): void {
    const view = this.#view(values.length * 8)
    for (let i = 0; i < values.length; i++) view.setBigUint64(i * 8, values[i]!, true)
  }

  end(): Uint8Array {
    return this.#bytes.slice(0, this.#size)
  }

  #view(bytes: number): DataView {
    const room = this.#room(bytes)
    return new DataView(room.buffer, room.byteOffset, bytes)
  }

  #room(bytes: number): Uint8Array {
    if (this.#size + bytes > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(this.#size + bytes, this.#bytes.length * 2))
      grown.set(this.#bytes.subarray(0, this.#size))
      this.#bytes = grown
    }
    this.#size += bytes
    return this.#bytes.subarray(this.#size - bytes, this.#size)
  }
}

class ByteReader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  bytes(count: number): Uint8Array {
    const at = this.#take(count)
    return this.#bytes.subarray(at, at + count)
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1))
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true)
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true)
  }

  u64(): number {
    const at = this.#take(8)
    const value = this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * 2 ** 32
    if (value > LIMITS.dimension) {
      refuse('index', `expected a dimension of at most ${LIMITS.dimension}, got ${value}`)
    }
    return value
  }

  text(length: number): string {
    const bytes = this.bytes(length)
    try {
      return decoder.decode(bytes)
    } catch (cause) {
      throw new CodecError('delta', 'index', 'expected UTF-8 in the index', null, { cause })
    }
  }

  /** `count` u32; nothing is allocated for values that are not there. */
  column(count: number): Uint32Array {
    const from = this.#take(count * 4)
    const values = new Uint32Array(count)
    for (let i = 0; i < count; i++) values[i] = this.#view.getUint32(from + i * 4, true)
    return values
  }

  /** `count` u64, as {@link column}. */
  wideColumn(count: number): BigUint64Array {
    const from = this.#take(count * 8)
    const values = new BigUint64Array(count)
    for (let i = 0; i < count; i++) values[i] = this.#view.getBigUint64(from + i * 8, true)
    return values
  }

  end(): void {
    const left = this.#bytes.length - this.#at
    if (left > 0) refuse('index', `${left} bytes of the index are left over`)
  }

  #take(count: number): number {
    const at = this.#at
    if (count > this.#bytes.length - at) {
      refuse('index', `expected ${count} bytes at ${at} of the index, it has ${this.#bytes.length}`)
    }
    this.#at += count
    return at
  }
}

function toHex(bytes: Uint8Array): string {
  let hex = ''
  for (const byte of bytes) hex += byte.toString(16).padStart(2, '0')
  return hex
}

function fromHex(hex: string): Uint8Array {
  const bytes = new Uint8Array(hex.length / 2)
  for (let i = 0; i < bytes.length; i++) {
    bytes[i] = Number.parseInt(hex.slice(i * 2, i * 2 + 2), 16)
  }
  return bytes
}
