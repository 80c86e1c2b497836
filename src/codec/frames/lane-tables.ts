import { CodecError } from '../base/errors.ts'
import type { Frequencies, LaneModel, LaneTables } from '../kernels/lane-machine.ts'

/** Contexts of a frame, and symbols of a context. */
const CONTEXTS = 16
const SYMBOLS = 256
const HALF = 128
/** Sum of a table's frequencies, and the logarithm of that. */
const TOTAL = 1024
const TOTAL_BITS = 10
/** Longest run of zeros in a `gamma`. */
const GAMMA_BITS = 15
/** Bits that a table takes, roughly: by itself, and for each of its symbols. */
const TABLE_COST = 30
const SYMBOL_COST = 8
/** n * log2(n) of small counts: most counts are small. */
const N_LOG_N = Float64Array.from({ length: 4096 }, (_, n) => (n < 2 ? 0 : n * Math.log2(n)))
/** Bits of a symbol by its frequency. */
const BITS = Float64Array.from({ length: TOTAL + 1 }, (_, n) => TOTAL_BITS - Math.log2(n))

/** One table while tables are merged. Its counts are of the symbols that the frame has, in their order. */
interface Group {
  /** Its first context; its last is the one before the next group's first. */
  readonly first: number
  readonly counts: Float64Array
  readonly total: number
  /** Bits of its symbols and its table, roughly. */
  readonly cost: number
}

interface ChosenTables extends LaneTables {
  /** Bits that the symbols take, by their frequencies. */
  readonly bits: number
}

/** The tables for a model: one for each context, with neighbours merged while a table less saves more bits than the symbols lose. */
export function chooseTables({ counts }: LaneModel): ChosenTables {
  const symbols = usedSymbols(counts)
  const groups = mergeGroups(
    Array.from({ length: CONTEXTS }, (_, first) => {
      const own = new Float64Array(symbols.length)
      for (let i = 0; i < own.length; i++) own[i] = counts[first * SYMBOLS + symbols[i]!]!
      return group(first, own)
    }),
  )
  const contexts = new Uint8Array(CONTEXTS)
  const frequencies: Frequencies[] = []
  let bits = 0
  for (const each of groups) {
    contexts.fill(frequencies.length, each.first)
    const compact = normalize(each)
    const table = new Uint16Array(SYMBOLS)
    for (let i = 0; i < compact.length; i++) {
      table[symbols[i]!] = compact[i]!
      if (each.counts[i]! > 0) bits += each.counts[i]! * BITS[compact[i]!]!
    }
    frequencies.push(table)
  }
  return { contexts, frequencies, bits }
}

/** The symbols that come in any context; one symbol for a frame without coded lanes, in which only lower halves differ. */
function usedSymbols(counts: Uint32Array): number[] {
  const used: number[] = []
  for (let symbol = 0; symbol < SYMBOLS; symbol++) {
    let any = 0
    for (let at = symbol; at < CONTEXTS * SYMBOLS; at += SYMBOLS) any |= counts[at]!
    if (any !== 0) used.push(symbol)
  }
  return used.length > 0 ? used : [0]
}

/** Merges neighbours, the pair that saves most first. */
function mergeGroups(groups: Group[]): Group[] {
  // The result of merging a group with the next.
  const merged = groups.slice(1).map((right, i) => merge(groups[i]!, right))
  for (;;) {
    let best = -1
    let most = 0
    for (let i = 0; i < merged.length; i++) {
      const gain = groups[i]!.cost + groups[i + 1]!.cost - merged[i]!.cost
      if (gain <= most) continue
      most = gain
      best = i
    }
    if (best < 0) return groups
    groups.splice(best, 2, merged[best]!)
    merged.splice(best, 1)
    if (best > 0) merged[best - 1] = merge(groups[best - 1]!, groups[best]!)
    if (best < merged.length) merged[best] = merge(groups[best]!, groups[best + 1]!)
  }
}

function merge(left: Group, right: Group): Group {
  if (right.total === 0) return left
  const counts = new Float64Array(left.counts.length)
  for (let i = 0; i < counts.length; i++) counts[i] = left.counts[i]! + right.counts[i]!
  return group(left.first, counts)
}

function group(first: number, counts: Float64Array): Group {
  let total = 0
  let used = 0
  let logs = 0
  for (let i = 0; i < counts.length; i++) {
    const count = counts[i]!
    if (count === 0) continue
    total += count
    used++
    logs += nLogN(count)
  }
  return { first, counts, total, cost: nLogN(total) - logs + TABLE_COST + SYMBOL_COST * used }
}

function nLogN(n: number): number {
  return n < N_LOG_N.length ? N_LOG_N[n]! : n * Math.log2(n)
}

/** Frequencies in proportion to counts, at least 1 for each symbol that came. A table without symbols gets one. */
function normalize({ counts, total }: Group): Uint16Array {
  const frequencies = new Uint16Array(counts.length)
  if (total === 0) {
    frequencies[0] = TOTAL
    return frequencies
  }
  // A symbol rarer than the smallest frequency takes more than its share: the others divide the rest.
  let [room, rest] = [TOTAL, total]
  for (let i = 0; i < counts.length; i++) {
    if (counts[i] === 0 || counts[i]! * TOTAL >= total) continue
    frequencies[i] = 1
    room--
    rest -= counts[i]!
  }
  let sum = TOTAL - room
  for (let i = 0; i < counts.length; i++) {
    if (counts[i]! * TOTAL < total) continue
    frequencies[i] = Math.max(1, Math.round((counts[i]! * room) / rest))
    sum += frequencies[i]!
  }
  for (; sum > TOTAL; sum--) frequencies[leastUseful(counts, frequencies)]!--
  for (; sum < TOTAL; sum++) frequencies[mostUseful(counts, frequencies)]!++
  return frequencies
}

/** The symbol whose frequency can best be lowered by one: a step of the frequency f changes a symbol's length by about 1 / f. */
function leastUseful(counts: Float64Array, frequencies: Uint16Array): number {
  let best = -1
  let least = Number.POSITIVE_INFINITY
  for (let i = 0; i < counts.length; i++) {
    const frequency = frequencies[i]!
    if (frequency < 2) continue
    const loss = counts[i]! / (frequency - 0.5)
    if (loss >= least) continue
    least = loss
    best = i
  }
  return best
}

function mostUseful(counts: Float64Array, frequencies: Uint16Array): number {
  let best = -1
  let most = 0
  for (let i = 0; i < counts.length; i++) {
    const gain = counts[i]! / (frequencies[i]! + 0.5)
    if (gain <= most) continue
    most = gain
    best = i
  }
  return best
}

/** The bits that say which contexts begin a table: `starts` in `FORMAT.md`. */
export function tableStarts({ contexts }: LaneTables): number {
  let starts = 1
  for (let c = 1; c < CONTEXTS; c++) if (contexts[c] !== contexts[c - 1]) starts |= 1 << c
  return starts
}

/** The bytes of tables, as `FORMAT.md` describes them. */
export function writeTables({ frequencies }: LaneTables): Uint8Array {
  const out = new BitWriter()
  for (const table of frequencies) {
    for (const begin of [0, HALF]) {
      let used = HALF
      while (used > 0 && table[begin + used - 1] === 0) used--
      out.gamma(used + 1)
      for (let i = 0; i < used; i++) {
        const guess = i < 2 ? 0 : table[begin + i - 2]!
        const off = table[begin + i]! - guess
        out.rice(off < 0 ? -2 * off - 1 : 2 * off, riceBits(guess))
      }
    }
  }
  return out.end()
}

/**
 * The tables that {@link writeTables} wrote, with the `starts` of the frame.
 * @throws CodecError `coded` for malformed tables
 */
export function readTables(starts: number, bytes: Uint8Array): LaneTables {
  if ((starts & 1) === 0) refuse('context 0 begins no table')
  const contexts = new Uint8Array(CONTEXTS)
  for (let c = 1; c < CONTEXTS; c++) contexts[c] = contexts[c - 1]! + ((starts >> c) & 1)
  const bits = new BitReader(bytes)
  const frequencies = Array.from({ length: contexts[CONTEXTS - 1]! + 1 }, () => readTable(bits))
  bits.end()
  return { contexts, frequencies }
}

function readTable(bits: BitReader): Frequencies {
  const table = new Uint16Array(SYMBOLS)
  let sum = 0
  for (const begin of [0, HALF]) {
    const used = bits.gamma() - 1
    if (used > HALF) refuse(`expected at most ${HALF} symbols, got ${used}`)
    for (let i = 0; i < used; i++) {
      const guess = i < 2 ? 0 : table[begin + i - 2]!
      const zigzag = bits.rice(riceBits(guess))
      const frequency = guess + (zigzag & 1 ? -((zigzag + 1) >> 1) : zigzag >> 1)
      sum += frequency
      if (frequency < 0 || sum > TOTAL) refuse(`expected frequencies that sum to ${TOTAL}`)
      table[begin + i] = frequency
    }
  }
  if (sum !== TOTAL) refuse(`expected frequencies that sum to ${TOTAL}, got ${sum}`)
  return table
}

function riceBits(guess: number): number {
  return Math.max(0, 31 - Math.clz32(guess + 1) - 1)
}

function refuse(message: string): never {
  throw new CodecError('delta', 'coded', `tables of a frame: ${message}`)
}

/** Bits, least significant first. */
class BitWriter {
  readonly #bytes: number[] = []
  #held = 0
  #count = 0

  put(value: number, bits: number): void {
    this.#held |= value << this.#count
    this.#count += bits
    while (this.#count >= 8) {
      this.#bytes.push(this.#held & 0xff)
      this.#held >>>= 8
      this.#count -= 8
    }
  }

  gamma(value: number): void {
    const n = 31 - Math.clz32(value)
    this.put(1 << n, n + 1)
    this.put(value - (1 << n), n)
  }

  rice(value: number, k: number): void {
    this.gamma((value >> k) + 1)
    this.put(value & ((1 << k) - 1), k)
  }

  end(): Uint8Array {
    if (this.#count > 0) this.put(0, 8 - this.#count)
    return Uint8Array.from(this.#bytes)
  }
}

class BitReader {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  take(bits: number): number {
    let value = 0
    for (let i = 0; i < bits; i++, this.#at++) {
      const byte = this.#bytes[this.#at >> 3]
      if (byte === undefined) refuse(`they end after ${this.#bytes.length} bytes`)
      value |= ((byte >> (this.#at & 7)) & 1) << i
    }
    return value
  }

  gamma(): number {
    let n = 0
    while (this.take(1) === 0) {
      n++
      if (n > GAMMA_BITS) refuse(`expected at most ${GAMMA_BITS} zeros before a number`)
    }
    return (1 << n) + this.take(n)
  }

  rice(k: number): number {
    return ((this.gamma() - 1) << k) | this.take(k)
  }

  /** Refuses bytes that are left over, and bits after the last that are not zero. */
  end(): void {
    const left = this.#bytes.length * 8 - this.#at
    if (left >= 8 || this.take(left) !== 0) refuse('they are followed by something else')
  }
}
