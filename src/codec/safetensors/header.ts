import { DTYPE_BITS, type Dtype, isDtype } from '../base/dtypes.ts'
import { CodecError, quoted } from '../base/errors.ts'
import { parseJsonSteps } from '../base/json.ts'
import { isCount, type JsonMember, type JsonValue } from '../base/json-values.ts'
import { LIMITS } from '../base/limits.ts'
import { sortSteps } from '../base/sort.ts'
import { complete, STEP_ITEMS, type Steps } from '../base/steps.ts'
import { checkName } from '../base/utf8.ts'
import type { Layout, LayoutTensor } from './layout.ts'

/** Bytes of the length word: a u64 in front of the header. */
export const LENGTH_BYTES = 8

/** The beginning of a file: the length word, then `json`, which is the header with its padding. */
export function withLengthWord(json: Uint8Array): Uint8Array {
  const header = new Uint8Array(LENGTH_BYTES + json.length)
  new DataView(header.buffer).setBigUint64(0, BigInt(json.length), true)
  header.set(json, LENGTH_BYTES)
  return header
}

/** What follows the length word: see {@link withLengthWord}. */
export function withoutLengthWord(header: Uint8Array): Uint8Array {
  return header.subarray(LENGTH_BYTES)
}

/** The member of a header that holds strings and not a tensor. */
export const METADATA = '__metadata__'
/** Bytes that the beginning of the data is aligned to, by padding the header. */
export const ALIGNMENT = 8
/** Shapes that are remembered while a header is read; a power of two. Most models have a few. */
const SHAPE_SLOTS = 256

/**
 * Bytes of length word and header, from the first 8 bytes of a file. `fileSize` is null where it is not known yet.
 * @throws CodecError `header-too-small`, `header-too-large`, `header-length`
 */
export function headerBytes(first: Uint8Array, fileSize: number | null): number {
  if (first.length < LENGTH_BYTES) {
    refuse('header-too-small', `expected at least ${LENGTH_BYTES} bytes, got ${first.length}`, 0)
  }
  const view = new DataView(first.buffer, first.byteOffset)
  const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32
  if (length > LIMITS.headerBytes) {
    refuse(
      'header-too-large',
      `expected a header of at most ${LIMITS.headerBytes} bytes, got ${length}`,
      0,
    )
  }
  if (fileSize !== null && LENGTH_BYTES + length > fileSize) {
    refuse('header-length', `a header of ${length} bytes in a file of ${fileSize}`, 0)
  }
  return LENGTH_BYTES + length
}

/**
 * Parses length word and header of a safetensors file of `fileSize` bytes, by the reference's rules and the stricter policy
 * `strict-1`: no key twice, object form only, the three fields only, padding of spaces, names and sizes within LIMITS.
 * Source: huggingface/safetensors `safetensors/src/tensor.rs`.
 * @throws CodecError of kind `safetensors`: what {@link headerBytes} and the JSON tokenizer throw; `header-start`,
 * `metadata`, `name`, `entry`, `dtype`, `shape`, `offsets`, `overflow`, `misaligned`, `size`, `hole`, `file-size`
 */
export function parseLayout(header: Uint8Array, fileSize: number): Layout {
  return complete(parseLayoutSteps(header, fileSize))
}

/** {@link parseLayout} in steps. */
export function* parseLayoutSteps(header: Uint8Array, fileSize: number): Steps<Layout> {
  const expected = headerBytes(header, fileSize)
  if (header.length !== expected) {
    refuse('header-length', `expected ${expected} bytes of header, got ${header.length}`, 0)
  }
  const layout = yield* readHeaderSteps(header)
  if (layout.size !== fileSize) {
    refuse(
      'file-size',
      `the header describes a file of ${layout.size} bytes, got ${fileSize}`,
      LENGTH_BYTES,
    )
  }
  return layout
}

/**
 * The layout that length word and header describe, in steps; its size is where the last tensor ends.
 * @throws CodecError as {@link parseLayout}, but for the size of the file; `too-many-tensors` as soon as more than `most` have come
 */
export function* readHeaderSteps(header: Uint8Array, most: number = LIMITS.tensors): Steps<Layout> {
  if (header[LENGTH_BYTES] !== 0x7b) {
    refuse('header-start', 'expected the header to begin with {', LENGTH_BYTES)
  }
  const tensors: ParsedTensor[] = []
  const shapes = new Shapes()
  let metadata: Map<string, string> | null = null
  const json = header.subarray(LENGTH_BYTES)
  yield* parseJsonSteps(json, LENGTH_BYTES, 'safetensors', [], member => {
    if (member.key === METADATA) metadata = parseMetadata(member)
    else tensors.push(parseTensor(member, shapes))
    if (tensors.length > most) {
      refuse('too-many-tensors', `expected at most ${most} tensors`, member.keyOffset)
    }
  })
  const placed = yield* placeTensors(tensors, header.length)
  return { header, metadata, size: placed.at(-1)?.end ?? header.length, tensors: placed }
}

/** A tensor whose `begin` and `end` are counted from the start of the data, and the byte of the header that names it. */
type ParsedTensor = LayoutTensor & { readonly offset: number }

function parseMetadata({ value, end }: JsonMember): Map<string, string> {
  if (value.kind !== 'object') {
    return refuse('metadata', `${METADATA}: expected an object of strings`, value.offset)
  }
  if (end - value.offset > LIMITS.metadataBytes) {
    refuse('metadata', `${METADATA}: expected at most ${LIMITS.metadataBytes} bytes`, value.offset)
  }
  const metadata = new Map<string, string>()
  for (const [key, member] of value.members) {
    if (member.kind !== 'string') {
      return refuse('metadata', `${METADATA}: expected a string for ${quoted(key)}`, member.offset)
    }
    metadata.set(key, member.value)
  }
  return metadata
}

function parseTensor(
  { key: name, value, keyOffset: offset }: JsonMember,
  shapes: Shapes,
): ParsedTensor {
  checkName('safetensors', name, offset)
  if (value.kind !== 'object') return refuse('entry', `${quoted(name)}: expected an object`, offset)
  const { members } = value
  for (const key of members.keys()) {
    if (key === 'dtype' || key === 'shape' || key === 'data_offsets') continue
    refuse(
      'entry',
      `${quoted(name)}: expected dtype, shape and data_offsets, got ${quoted(key)}`,
      offset,
    )
  }
  const dtype = members.get('dtype')
  if (dtype?.kind !== 'string' || !isDtype(dtype.value)) {
    const came = dtype?.kind === 'string' ? quoted(dtype.value) : (dtype?.kind ?? 'nothing')
    return refuse(
      'dtype',
      `${quoted(name)}: expected a dtype of safetensors, got ${came}`,
      dtype?.offset ?? offset,
    )
  }
  const shape = parseCounts(name, members.get('shape'), 'shape', offset)
  if (shape.length > LIMITS.rank || shape.some(dimension => dimension > LIMITS.dimension)) {
    refuse(
      'shape',
      `${quoted(name)}: expected at most ${LIMITS.rank} dimensions of at most ${LIMITS.dimension}`,
      offset,
    )
  }
  const offsets = parseCounts(name, members.get('data_offsets'), 'offsets', offset)
  const [begin, end] = offsets
  if (begin === undefined || end === undefined || offsets.length !== 2 || begin > end) {
    return refuse(
      'offsets',
      `${quoted(name)}: expected data_offsets [begin, end], got [${offsets}]`,
      offset,
    )
  }
  checkSize(name, dtype.value, shape, end - begin, offset)
  return { name, dtype: dtype.value, shape: shapes.share(shape), begin, end, offset }
}

function parseCounts(
  name: string,
  value: JsonValue | undefined,
  rule: 'shape' | 'offsets',
  offset: number,
): number[] {
  if (value?.kind !== 'array') {
    return refuse(rule, `${quoted(name)}: expected ${rule} to be a list`, value?.offset ?? offset)
  }
  return value.items.map(item => {
    if (isCount(item)) return item.value
    const expected = 'integers from 0 to 2^53 - 1'
    return refuse(
      rule,
      `${quoted(name)}: expected ${rule} of ${expected}, got ${describe(item)}`,
      item.offset,
    )
  })
}

function checkSize(
  name: string,
  dtype: Dtype,
  shape: readonly number[],
  bytes: number,
  offset: number,
): void {
  let elements = 1
  for (const dimension of shape) elements = multiply(name, elements, dimension, offset)
  const bits = multiply(name, elements, DTYPE_BITS[dtype], offset)
  if (bits % 8 !== 0) {
    refuse(
      'misaligned',
      `${quoted(name)}: ${elements} elements of ${dtype} end within a byte`,
      offset,
    )
  }
  if (bits / 8 !== bytes) {
    refuse(
      'size',
      `${quoted(name)}: [${shape}] of ${dtype} takes ${bits / 8} bytes, data_offsets hold ${bytes}`,
      offset,
    )
  }
}

function multiply(name: string, a: number, b: number, offset: number): number {
  if (b !== 0 && a > Number.MAX_SAFE_INTEGER / b) {
    refuse('overflow', `${quoted(name)}: expected at most 2^53 - 1 bits`, offset)
  }
  return a * b
}

/** The shapes that came last: the tensors of a model have few different ones, and share one list for each. */
class Shapes {
  readonly #slots: (readonly number[] | undefined)[] = Array(SHAPE_SLOTS)

  /** The list that was given for an equal shape before, if that is remembered; else `shape`. */
  share(shape: readonly number[]): readonly number[] {
    let hash = shape.length
    for (const dimension of shape) hash = (hash * 31 + dimension) | 0
    const slot = hash & (SHAPE_SLOTS - 1)
    const known = this.#slots[slot]
    if (known?.length === shape.length && known.every((n, i) => n === shape[i])) return known
    this.#slots[slot] = shape
    return shape
  }
}

/** The tensors in file order, their offsets counted from the start of the file. */
function* placeTensors(tensors: ParsedTensor[], dataStart: number): Steps<LayoutTensor[]> {
  const inOrder = yield* sortSteps(tensors, (a, b) => a.begin - b.begin || a.end - b.end)
  const placed: LayoutTensor[] = []
  let next = 0
  for (const { name, dtype, shape, begin, end, offset } of inOrder) {
    if (placed.length % STEP_ITEMS === 0) yield
    if (begin !== next) {
      refuse('hole', `${quoted(name)}: expected its data to begin at ${next}, got ${begin}`, offset)
    }
    if (end > Number.MAX_SAFE_INTEGER - dataStart) {
      refuse('overflow', `${quoted(name)}: expected a file of at most 2^53 - 1 bytes`, offset)
    }
    next = end
    placed.push({ name, dtype, shape, begin: begin + dataStart, end: end + dataStart })
  }
  return placed
}

function describe(value: JsonValue): string {
  return value.kind === 'number' ? value.text : value.kind
}

export function refuse(rule: string, message: string, offset: number | null): never {
  throw new CodecError('safetensors', rule, message, offset)
}
