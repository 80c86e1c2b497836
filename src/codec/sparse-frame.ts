import { CodecError } from './errors.ts'

/** Most elements that are worth a list: beyond that the coder is shorter, and looking for them takes time. */
const MOST_LISTED = 4096
const COUNT_BYTES = 4

/**
 * A frame as a `sparse` record: the elements of `width` bytes that differ from the prediction. `differing` has one bit for
 * each block of 32 bytes that differs. Null if the record would be no shorter than `limit` bytes, or the elements are too many.
 */
export function encodeSparse(
  frame: Uint8Array,
  prediction: Uint8Array,
  { width, differing, limit }: { width: number; differing: Uint8Array; limit: number },
): Uint8Array | null {
  const changed: number[] = []
  for (const block of blocksIn(differing)) {
    const end = Math.min((block + 1) * 32, frame.length)
    for (let at = block * 32; at < end; at += width) {
      if (!sameElement(frame, prediction, at, width)) changed.push(at / width)
    }
    if (changed.length > MOST_LISTED) return null
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
 * @throws CodecError `sparse`
 */
export function restoreSparse(record: Uint8Array, frame: Uint8Array, width: number): void {
  if (record.length < COUNT_BYTES) refuse(`expected at least ${COUNT_BYTES} bytes`)
  const count = new DataView(record.buffer, record.byteOffset).getUint32(0, true)
  const elements = frame.length / width
  if (count > elements || record.length < COUNT_BYTES + count * (width + 1)) {
    refuse(`${count} elements in ${record.length} bytes, of ${elements}`)
  }
  const changed = new Uint32Array(count)
  let at = COUNT_BYTES
  let next = 0
  for (let i = 0; i < count; i++) {
    let gap = 0
    for (let shift = 0; ; shift += 7) {
      const byte = record[at++]
      if (byte === undefined || shift > 21) refuse('a gap that does not end')
      gap |= (byte & 127) << shift
      if (byte < 128) break
    }
    changed[i] = next + gap
    next += gap + 1
    if (next > elements) refuse(`element ${next - 1} of ${elements}`)
  }
  if (record.length !== at + count * width) {
    refuse(`expected ${at + count * width} bytes, got ${record.length}`)
  }
  for (const element of changed) {
    frame.set(record.subarray(at, at + width), element * width)
    at += width
  }
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
