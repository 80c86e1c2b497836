import { CELL } from '../../base/limits.ts'
import type { CellRanks } from '../delta-index.ts'
import { refuse } from '../refuse.ts'

/**
 * Checks the data of one array as it passes, in pieces of any size, and keeps what the index needs of it. `offset` is where `bytes` begins in
 * the file. `bytes` itself is not kept.
 */
export interface ArrayCheck {
  push(bytes: Uint8Array, offset: number): void
}

/** A check of whole elements: `bytes` begins at a multiple of 4 of its buffer, and ends with the end of an element. */
interface ElementCheck {
  run(bytes: Uint8Array, offset: number): void
}

/** Bytes of the buffer that regroups pieces. */
const SCRATCH_BYTES = 65_536
/** Entries up to which a tensor has a rank for each of its cells, even if most keep nothing. */
const MIN_SPARSE_ENTRIES = 64

/**
 * Regroups pieces into runs of whole elements that typed arrays can view. A piece that is aligned is passed on as it is. Arrays follow one
 * another in a file, so that one aligner serves them all.
 */
export class Aligner {
  readonly #scratch = new Uint8Array(SCRATCH_BYTES)

  /** A check that regroups pieces for `elements`; `width` is the bytes of an element. */
  feed(elements: ElementCheck, width: number): ArrayCheck {
    const scratch = this.#scratch
    let held = 0
    return {
      push: (bytes, offset) => {
        let at = 0
        if (held === 0 && bytes.byteOffset % 4 === 0) {
          at = bytes.length - (bytes.length % width)
          if (at > 0) elements.run(bytes.subarray(0, at), offset)
        }
        while (at < bytes.length) {
          const piece = bytes.subarray(at, at + SCRATCH_BYTES - held)
          scratch.set(piece, held)
          at += piece.length
          held += piece.length
          const whole = held - (held % width)
          if (whole > 0) elements.run(scratch.subarray(0, whole), offset + at - held)
          scratch.copyWithin(0, whole, held)
          held -= whole
        }
      },
    }
  }
}

/**
 * Checks positions of kept elements: int64, strictly increasing, within `[0, count)`. It finds their ranks. Its memory grows with the positions
 * that come, not with the `count` that is claimed.
 */
export class IndexCheck {
  readonly #label: string
  readonly #count: number
  /** The cells that hold a position, and how many positions come before each. */
  readonly #cells: number[] = []
  readonly #before: number[] = []
  #seen = 0
  #last = -1
  #cellEnd = 0

  constructor(label: string, count: number) {
    this.#label = label
    this.#count = count
  }

  run(bytes: Uint8Array, offset: number): void {
    const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
    const count = this.#count
    let last = this.#last
    let cellEnd = this.#cellEnd
    for (let i = 0; i < words.length; i += 2) {
      const index = words[i]! + words[i + 1]! * 2 ** 32
      if (index <= last || index >= count) {
        this.#refuse(words[i]!, words[i + 1]!, last, offset + i * 4)
      }
      if (index >= cellEnd) cellEnd = this.#enterCell(index, this.#seen + i / 2)
      last = index
    }
    this.#seen += words.length / 2
    this.#last = last
    this.#cellEnd = cellEnd
  }

  /** The ranks for the index. To be called after the last run. */
  ranks(): CellRanks {
    const cells = this.#cells
    const entries = Math.ceil(this.#count / CELL) + 1
    if (entries > MIN_SPARSE_ENTRIES && entries > cells.length * 2) {
      return { ranks: [...this.#before, this.#seen], cells }
    }
    const ranks: number[] = []
    cells.forEach((cell, i) => {
      while (ranks.length <= cell) ranks.push(this.#before[i]!)
    })
    while (ranks.length < entries) ranks.push(this.#seen)
    return { ranks }
  }

  #enterCell(index: number, before: number): number {
    const cell = Math.floor(index / CELL)
    this.#cells.push(cell)
    this.#before.push(before)
    return (cell + 1) * CELL
  }

  #refuse(low: number, high: number, last: number, offset: number): never {
    const index = low + (high | 0) * 2 ** 32
    const came = `${this.#label}: got index ${index}`
    if (index < 0) refuse('index-negative', `${came}, expected 0 to ${this.#count - 1}`, offset)
    if (index >= this.#count) {
      refuse('index-range', `${came}, expected less than the ${this.#count} elements`, offset)
    }
    return refuse('index-order', `${came} after ${last}, expected strictly increasing`, offset)
  }
}

/** Looks at values, any of which are allowed: counts those that are NaN or infinite, and notes if all are +0 or -0. */
export class ValueCheck {
  readonly #width: 2 | 4
  /** Values that are NaN or infinite. */
  nonFinite = 0
  /** All values so far are +0 or -0. */
  zero = true

  /** `width`: bytes of a value, 2 for float16, 4 for float32. */
  constructor(width: 2 | 4) {
    this.#width = width
  }

  run(bytes: Uint8Array): void {
    const { buffer, byteOffset } = bytes
    const [values, exponent, magnitude] =
      this.#width === 2
        ? [new Uint16Array(buffer, byteOffset, bytes.length / 2), 0x7c00, 0x7fff]
        : [new Uint32Array(buffer, byteOffset, bytes.length / 4), 0x7f800000, 0x7fffffff]
    let any = 0
    let nonFinite = 0
    for (let i = 0; i < values.length; i++) {
      const bits = values[i]!
      any |= bits
      if ((bits & exponent) === exponent) nonFinite++
    }
    this.nonFinite += nonFinite
    if ((any & magnitude) !== 0) this.zero = false
  }
}

/** Checks float16 parameters: finite, and without a sign bit unless `signed`. */
export class ScaleCheck {
  readonly #label: string
  readonly #rule: string
  readonly #signed: boolean
  #last = 0
  /** All values so far are zero. */
  zero = true

  constructor(label: string, rule: string, signed: boolean) {
    this.#label = label
    this.#rule = rule
    this.#signed = signed
  }

  run(bytes: Uint8Array, offset: number): void {
    const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)
    const highest = this.#signed ? 0xffff : 0x7fff
    for (let i = 0; i < halves.length; i++) {
      const bits = halves[i]!
      if ((bits & 0x7c00) === 0x7c00 || bits > highest) this.#refuse(bits, offset + i * 2)
      if ((bits & 0x7fff) !== 0) this.zero = false
    }
    this.#last = halves[halves.length - 1]!
  }

  /** The last value, widened. */
  get value(): number {
    return widenHalf(this.#last)
  }

  #refuse(bits: number, offset: number): never {
    const expected = this.#signed ? 'a finite float16' : 'a finite float16 that is not negative'
    const hex = bits.toString(16).padStart(4, '0')
    const came = `${widenHalf(bits)} (0x${hex})`
    return refuse(this.#rule, `${this.#label}: expected ${expected}, got ${came}`, offset)
  }
}

function widenHalf(bits: number): number {
  return new Float16Array(Uint16Array.of(bits).buffer)[0]!
}

/** Checks 1-bit signs: `count` bits, most significant first; the unused bits of the last byte are 0. */
export class SignCheck implements ArrayCheck {
  readonly #label: string
  readonly #padding: number
  #left: number

  constructor(label: string, count: number) {
    this.#label = label
    this.#padding = 0xff >>> (count % 8 || 8)
    this.#left = Math.ceil(count / 8)
  }

  push(bytes: Uint8Array, offset: number): void {
    this.#left -= bytes.length
    if (this.#left > 0) return
    const last = bytes[bytes.length - 1]!
    if ((last & this.#padding) !== 0) {
      const came = `0x${last.toString(16).padStart(2, '0')}`
      const at = offset + bytes.length - 1
      refuse('padding-bits', `${this.#label}: unused bits of the last byte ${came} are not 0`, at)
    }
  }
}

/** The 16 nibbles, as a set of bits. */
const ALL_NIBBLES = 0xffff

/**
 * Checks nibbles, high first; the unused nibble of the last byte is 0. Notes which of the 16 nibbles occur, until all have or one of
 * `telling` has, a set of nibbles as bits: an ordinary array is scanned for a few bytes only. `telling` is null if it is not known yet.
 */
export class NibbleCheck implements ArrayCheck {
  readonly #label: string
  readonly #telling: number
  readonly #padded: boolean
  #left: number
  #scanning: boolean
  #last = -1
  /** Nibbles that occurred while the array was scanned, as a set of bits. */
  seen = 0

  constructor(label: string, count: number, telling: number | null) {
    this.#label = label
    this.#telling = telling ?? 0
    this.#padded = count % 2 === 1
    this.#left = Math.ceil(count / 2)
    this.#scanning = telling !== 0
  }

  push(bytes: Uint8Array, offset: number): void {
    this.#left -= bytes.length
    const padded = this.#left === 0 && this.#padded
    const full = padded ? bytes.length - 1 : bytes.length
    if (this.#scanning) this.#scan(bytes, full)
    if (!padded) return
    const last = bytes[full]!
    this.seen |= 1 << (last >> 4)
    if ((last & 15) !== 0) {
      const came = `0x${last.toString(16).padStart(2, '0')}`
      const at = offset + full
      refuse(
        'padding-nibble',
        `${this.#label}: unused nibble of the last byte ${came} is not 0`,
        at,
      )
    }
  }

  #scan(bytes: Uint8Array, end: number): void {
    let last = this.#last
    for (let i = 0; i < end; i++) {
      const byte = bytes[i]!
      if (byte === last) continue
      last = byte
      this.seen |= (1 << (byte >> 4)) | (1 << (byte & 15))
      if ((this.seen & this.#telling) !== 0 || this.seen === ALL_NIBBLES) {
        this.#scanning = false
        return
      }
    }
    this.#last = last
  }
}
