import { namedTensor } from '../../base/errors.ts'
import { DIGEST_BYTES } from '../../base/hasher.ts'
import { toHex } from '../../base/hex.ts'
import { FRAME_BYTES, LIMITS } from '../../base/limits.ts'
import { STEP_ITEMS, type Steps } from '../../base/steps.ts'
import { ENCODINGS } from '../../frames/frame-encodings.ts'
import { readHeaderSteps, withLengthWord } from '../../safetensors/header.ts'
import { assembleTensorsSteps, checkPath } from '../../safetensors/model-folder.ts'
import type { FrameDelta, FrameTensor, HashedShard } from '../delta-index.ts'
import { refuse } from '../refuse.ts'
import { ByteReader } from './bytes.ts'
import { frameCount, NO_RECORD, PREFIX_BYTES_V2, sized } from './format.ts'
import { checkSource, readSource } from './tensor-source.ts'

/** Entries of a column that one step handles. */
const STEP_ENTRIES = 65_536
/**
 * Most tensors of an index: FLOOR_TENSORS, and MAX_TENSORS_PER_BYTE more for each of its stored bytes. A tensor that is not empty takes a
 * checksum, unless others have the same bytes; of 20,000 empty ones with numbers in their names, each takes 1.2 bytes.
 */
const FLOOR_TENSORS = 16_384
const MAX_TENSORS_PER_BYTE = 2

/** What is known of a file before its index is read. */
interface IndexBounds {
  /** Bytes of the whole file. */
  readonly size: number
  /** Where its stored index begins. */
  readonly indexAt: number
  /** Records that came before the index; null if they were not read. */
  readonly records: number | null
  /** Most bytes of all shards together. */
  readonly maxBytes: number
  /** Bytes of the index as it is stored. */
  readonly stored: number
}

/**
 * Parses an index, inflated, in steps. Every number is compared with the bytes that are there, or with a limit, before memory is taken for it.
 * @throws CodecError of kind `delta`: `index`, `shard`, `model-size`, `too-many-tensors`, `too-many-frames`, `source`, `record`, `frame`,
 * `encoding`; and what safetensors headers, names and paths are refused for
 */
export function* parseIndexSteps(bytes: Uint8Array, bounds: IndexBounds): Steps<FrameDelta> {
  const { size } = bounds
  const input = new ByteReader(bytes)
  const parentIdentity = toHex(input.bytes(DIGEST_BYTES))
  const parentHash = toHex(input.bytes(DIGEST_BYTES))
  const most = countTensors(input.fork(), bounds)
  const shards = yield* readShards(input, most, bounds)
  const records = yield* readRecords(input, bounds)
  const tensors = yield* readTensors(input, shards)
  const frames = readFrames(input, tensors)
  input.end()
  yield* checkFrames(tensors, frames, records.lengths)
  const index = { format: 2, strategy: 'lossless', parentHash, parentIdentity, size } as const
  return { ...index, shards, tensors, records, frames }
}

/** The number of tensors in the index, found by skipping what comes before: a number too large is refused before a header is parsed. */
function countTensors(input: ByteReader, { stored }: IndexBounds): number {
  const shards = readShardCount(input)
  let headers = 0
  for (let i = 0; i < shards; i++) {
    input.bytes(input.u16())
    const length = readHeaderLength(input, headers)
    headers += length
    input.bytes(length + DIGEST_BYTES)
  }
  const records = input.u32()
  input.bytes(records * 12)
  const count = input.u32()
  const most = Math.min(LIMITS.tensors, FLOOR_TENSORS + stored * MAX_TENSORS_PER_BYTE)
  if (count <= most) return count
  const message = `an index of ${stored} stored bytes: expected at most ${most} tensors, got ${count}`
  return refuse('too-many-tensors', message)
}

function readShardCount(input: ByteReader): number {
  const count = input.u32()
  if (count >= 1 && count <= LIMITS.shards) return count
  return refuse('shard', `expected 1 to ${LIMITS.shards} shards, got ${count}`)
}

/** The length of the next header; `before`: bytes of the headers before it. */
function readHeaderLength(input: ByteReader, before: number): number {
  const length = input.u32()
  const most = Math.min(LIMITS.headerBytes, LIMITS.totalHeaderBytes - before)
  if (length <= most) return length
  return refuse('shard', `expected a header of at most ${most} bytes, got ${length}`)
}

/** The shards, which have at most `most` tensors together. */
function* readShards(
  input: ByteReader,
  most: number,
  { maxBytes }: IndexBounds,
): Steps<HashedShard[]> {
  const count = readShardCount(input)
  const shards: HashedShard[] = []
  const paths = new Set<string>()
  let [headers, tensors, bytes] = [0, 0, 0]
  for (let i = 0; i < count; i++) {
    yield
    const path = readPath(input, paths)
    const json = input.bytes(readHeaderLength(input, headers))
    headers += json.length
    const layout = yield* readHeaderSteps(withLengthWord(json), most - tensors)
    tensors += layout.tensors.length
    bytes += layout.size
    if (bytes > maxBytes) {
      refuse(
        'model-size',
        `expected a model of at most ${maxBytes} bytes, its headers say ${bytes}`,
      )
    }
    shards.push({ path, layout, sha256: toHex(input.bytes(DIGEST_BYTES)) })
  }
  yield* assembleTensorsSteps(shards)
  return shards
}

/** The path of the next shard, which is added to `paths`. Refuses one that is there already. */
function readPath(input: ByteReader, paths: Set<string>): string {
  const path = input.text(input.u16())
  checkPath(path)
  if (!path.endsWith('.safetensors') || paths.has(path)) {
    const shown = JSON.stringify(path)
    refuse('shard', `shard ${paths.size}: ${shown} is no safetensors file, or comes twice`)
  }
  paths.add(path)
  return path
}

function* readRecords(
  input: ByteReader,
  { indexAt, records }: IndexBounds,
): Steps<FrameDelta['records']> {
  const count = input.u32()
  // A record takes its length word and at least one byte. After the last come a zero word and the length of the index.
  const most = Math.min(LIMITS.frames, (indexAt - PREFIX_BYTES_V2 - 8) / 5)
  if (count > most || (records !== null && count !== records)) {
    const expected = records ?? `at most ${Math.floor(most)}`
    refuse('record', `expected ${expected} records, as the file has, the index names ${count}`)
  }
  const lengths = input.column(count)
  const checksums = input.wideColumn(count)
  const starts = new Float64Array(count)
  let at = PREFIX_BYTES_V2 + 4
  for (let i = 0; i < count; i++) {
    if (i % STEP_ENTRIES === 0) yield
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

function* readTensors(input: ByteReader, shards: readonly HashedShard[]): Steps<FrameTensor[]> {
  const expected = shards.reduce((sum, { layout }) => sum + layout.tensors.length, 0)
  const count = input.u32()
  if (count !== expected) {
    refuse('index', `expected ${expected} tensors, as the headers name, got ${count}`)
  }
  const tensors: FrameTensor[] = []
  let firstFrame = 0
  for (const { layout } of shards) {
    for (const placed of layout.tensors) {
      if (tensors.length % STEP_ITEMS === 0) yield
      const tensor = { ...sized(placed), firstFrame, source: readSource(input, placed.name) }
      if (tensor.source) checkSource(tensor, tensor.source)
      tensors.push(tensor)
      firstFrame += frameCount(tensor.bytes)
    }
  }
  if (firstFrame > LIMITS.frames) {
    refuse(
      'too-many-frames',
      `expected at most ${LIMITS.frames} frames, the headers say ${firstFrame}`,
    )
  }
  return tensors
}

function readFrames(input: ByteReader, tensors: readonly FrameTensor[]): FrameDelta['frames'] {
  const last = tensors.at(-1)
  const expected = last ? last.firstFrame + frameCount(last.bytes) : 0
  const count = input.u32()
  if (count !== expected) refuse('frame', `expected ${expected} frames, got ${count}`)
  const encodings = input.copy(count)
  return { encodings, records: input.column(count), checksums: input.wideColumn(count) }
}

/** Checks that every frame has a record that can be its own, and every record a frame. */
function* checkFrames(
  tensors: readonly FrameTensor[],
  frames: FrameDelta['frames'],
  lengths: Uint32Array,
): Steps<void> {
  let next = 0
  for (const { name, bytes, firstFrame } of tensors) {
    const count = frameCount(bytes)
    for (let i = 0; i < count; i++) {
      const frameNumber = firstFrame + i
      if (frameNumber % STEP_ENTRIES === 0) yield
      const size = Math.min(FRAME_BYTES, bytes - i * FRAME_BYTES)
      const fault = frameFault(frames, frameNumber, size, { next, lengths })
      if (fault) refuse(fault.rule, `${namedTensor(name)}, frame ${i}: ${fault.message}`)
      if (frames.records[frameNumber] === next) next++
    }
  }
  if (next < lengths.length) refuse('record', `no frame names record ${next}`)
}

/** What is wrong with a frame of `size` bytes; null if nothing is. `next` is the first record that no frame before it names. */
function frameFault(
  { encodings, records }: FrameDelta['frames'],
  frameNumber: number,
  size: number,
  { next, lengths }: { next: number; lengths: Uint32Array },
): { rule: string; message: string } | null {
  const record = records[frameNumber]!
  const encoding = ENCODINGS[encodings[frameNumber]!]
  if (!encoding) {
    return { rule: 'encoding', message: `no encoding has number ${encodings[frameNumber]}` }
  }
  if ((encoding === 'copy') !== (record === NO_RECORD)) {
    return { rule: 'frame', message: `${encoding} with record ${record}` }
  }
  if (encoding === 'copy') return null
  if (record > next || record >= lengths.length) {
    return { rule: 'frame', message: `expected record ${next} or one before, got ${record}` }
  }
  if (lengths[record]! <= size) return null
  return { rule: 'frame', message: `a record of ${lengths[record]} bytes for ${size}` }
}
