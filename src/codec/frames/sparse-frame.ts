import { CodecError } from '../base/errors.ts'

/** Bytes of the count in front of a record. */
const COUNT_BYTES = 4

interface ListLimits {
  readonly limit: number
  readonly most: number
}

/**
 * The `sparse` record of a frame: the elements of `width` bytes that differ from the prediction. `differing` has one bit for each block of
 * 32 bytes, set if it differs. Null if the record would not be shorter than `limit` bytes, or would list more than `most` elements.
 */
export function encodeSparseFrame(
  frame: Uint8Array,
  prediction: Uint8Array,
  { width, differing, limit, most }: ListLimits & { width: number; differing: Uint8Array },
): Uint8Array | null {
  const changed: number[] = []
  for (const block of blocksIn(differing)) {
    const end = Math.min((block + 1) * 32, frame.length)
    for (let at = block * 32; at < end; at += width) {
      if (!sameElement(frame, prediction, at, width)) changed.push(at / width)
    }
    if (changed.length > most) return null
  }
  const gaps: number[] = []
  let next = 0
  for (const element of changed) {
    let gap = element - next
    for (; gap > 127; gap >>>= 7) gaps.push((gap & 127) | 128)
    gaps.push(gap)
    next = element + 1
  }
  const size = COUNT_BYTES + gaps.length + changed.length * width
  if (size >= limit) return null
  const record = new Uint8Array(size)
  new DataView(record.buffer).setUint32(0, changed.length, true)
  record.set(gaps, COUNT_BYTES)
  changed.forEach((element, i) => {
    const at = element * width
    record.set(frame.subarray(at, at + width), COUNT_BYTES + gaps.length + i * width)
  })
  return record
}

/**
 * Turns the prediction in `frame` into the frame that a `sparse` record holds.
 * @throws CodecError `sparse` for a malformed record
 */
export function restoreSparseFrame(record: Uint8Array, frame: Uint8Array, width: number): void {
  if (record.length < COUNT_BYTES) refuse(`expected at least ${COUNT_BYTES} bytes`)
  const count = new DataView(record.buffer, record.byteOffset).getUint32(0, true)
  const elements = frame.length / width
  if (count > elements || record.length < COUNT_BYTES + count * (width + 1)) {
    refuse(`${count} elements in ${record.length} bytes, of ${elements}`)
  }
  const valuesAt = record.length - count * width
  let at = COUNT_BYTES
  let from = valuesAt
  let next = 0
  for (let i = 0; i < count; i++) {
    let gap = 0
    for (let shift = 0; ; shift += 7) {
      if (at === valuesAt || shift > 21) refuse('a gap that does not end')
      const byte = record[at++]!
      gap |= (byte & 127) << shift
      if (byte < 128) break
    }
    next += gap + 1
    if (next > elements) refuse(`element ${next - 1} of ${elements}`)
    // Byte by byte: a view for each value would take ten times as long.
    for (let to = (next - 1) * width; to < next * width; to++) frame[to] = record[from++]!
  }
  if (at === valuesAt) return
  refuse(`expected ${at + count * width} bytes, got ${record.length}`)
}

function* blocksIn(differing: Uint8Array): Generator<number> {
  for (let i = 0; i < differing.length; i++) {
    for (let bits = differing[i]!; bits; bits &= bits - 1)
      yield i * 8 + 31 - Math.clz32(bits & -bits)
  }
}

function sameElement(a: Uint8Array, b: Uint8Array, at: number, width: number): boolean {
  for (let i = at; i < at + width; i++) if (a[i] !== b[i]) return false
  return true
}

function refuse(message: string): never {
  throw new CodecError('delta', 'sparse', `a sparse frame: ${message}`)
}
