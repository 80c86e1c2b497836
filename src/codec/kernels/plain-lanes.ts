import { FRAME_BYTES } from '../base/limits.ts'
import {
  type CodedLanes,
  decodingEntries,
  type LaneKind,
  type LaneMachine,
  type LaneModel,
  type LaneStream,
  type LaneTables,
} from './lane-machine.ts'
import { evenEnd, MIN_STATE, paddedLanes, windowTop } from './lane-parts.ts'

const BLOCK_BYTES = 32
const BLOCK_LANES = 16
/** The window is placed by the first 8 lanes of every 128. */
const SAMPLED_LANES = 8
const SAMPLED_OF = 128

/** The exponent-context coder in plain TypeScript, one lane at a time: the specification of the SIMD kernels. */
export class PlainLanes implements LaneMachine {
  readonly record = new Uint8Array(FRAME_BYTES)
  #prediction = new Uint8Array(0)
  #frame = new Uint8Array(0)
  #kind: LaneKind = { shift: 7, halves: false }
  #bitmap = new Uint8Array(0)
  /** The lanes that are coded, of the prediction and of the frame. */
  #x: Uint16Array = new Uint16Array(0)
  #symbols = new Uint8Array(0)
  #raw = new Uint8Array(0)
  #top = 0

  compare(prediction: Uint8Array, frame: Uint8Array) {
    this.#prediction = prediction.slice()
    this.#frame = frame.slice()
    const differing = new Uint8Array(Math.ceil(frame.length / BLOCK_BYTES / 8))
    let changed = 0
    for (let at = 0, block = 0; at < frame.length; at += BLOCK_BYTES, block++) {
      const before = prediction.subarray(at, at + BLOCK_BYTES)
      if (before.every((byte, i) => byte === frame[at + i])) continue
      differing[block >> 3]! |= 1 << (block & 7)
      changed++
    }
    return { changed, differing }
  }

  model(kind: LaneKind, skip: boolean): LaneModel {
    this.#kind = kind
    let x = lanesOf(this.#prediction, kind)
    let y = lanesOf(this.#frame, kind)
    if (skip) {
      this.#bitmap = differingBlocks(x, y)
      x = gather(x, this.#bitmap)
      y = gather(y, this.#bitmap)
    }
    this.#x = x
    this.#takeSymbols(x, y)
    this.#top = windowTop(sampleExponents(x, kind))
    const counts = new Uint32Array(16 * 256)
    for (const [i, symbol] of this.#symbols.entries()) {
      counts[contextOf(x[i]!, this.#top, kind) * 256 + symbol]!++
    }
    return { count: x.length, top: this.#top, counts, rawBytes: this.#raw.length }
  }

  bitmap(): Uint8Array {
    return this.#bitmap
  }

  lows(): Uint8Array {
    const count = this.#frame.length / 4
    const lows = new Uint8Array(count * 2)
    for (let i = 0; i < count; i++) {
      lows[i] = this.#frame[i * 4]! ^ this.#prediction[i * 4]!
      lows[count + i] = this.#frame[i * 4 + 1]! ^ this.#prediction[i * 4 + 1]!
    }
    return lows
  }

  code({ contexts, frequencies }: LaneTables): CodedLanes {
    const starts = frequencies.map(startsOf)
    const states = new Uint32Array(16).fill(MIN_STATE)
    const words: number[] = []
    for (let i = this.#symbols.length - 1; i >= 0; i--) {
      const table = contexts[contextOf(this.#x[i]!, this.#top, this.#kind)]!
      const symbol = this.#symbols[i]!
      const frequency = frequencies[table]![symbol]!
      let state = states[i & 15]!
      // Otherwise the state would pass 2^31 - 1.
      if (state >>> 21 >= frequency) {
        words.push(state & 0xffff)
        state >>>= 16
      }
      const quotient = Math.floor(state / frequency)
      states[i & 15] = quotient * 1024 + (state - quotient * frequency) + starts[table]![symbol]!
    }
    return { states: bytesOf32(states), words: bytesOf16(words.reverse()), raw: this.#raw }
  }

  decode(stream: LaneStream, frame: Uint8Array): void {
    const { kind, bitmap, lows } = stream
    const lanes = lanesOf(frame, kind)
    const coded = bitmap ? gather(lanes, bitmap) : lanes
    decodeInPlace(stream, coded)
    if (bitmap) scatter(lanes, coded, bitmap)
    const width = kind.halves ? 4 : 2
    const count = frame.length / width
    for (let i = 0; i < count; i++) {
      frame[(i + 1) * width - 2] = lanes[i]! & 0xff
      frame[(i + 1) * width - 1] = lanes[i]! >> 8
      if (!lows) continue
      frame[i * 4]! ^= lows[i]!
      frame[i * 4 + 1]! ^= lows[count + i]!
    }
  }

  #takeSymbols(x: Uint16Array, y: Uint16Array): void {
    this.#symbols = new Uint8Array(x.length)
    const bits: number[] = []
    for (let i = 0; i < x.length; i++) {
      const before = x[i]!
      const z = y[i]! ^ (before & 0x8000)
      const d = (z & 0x7fff) - (before & 0x7fff)
      const m = d < 0 ? ~d : d
      const k = Math.max(0, 29 - Math.clz32(m))
      const token = m < 4 ? m : ((k + 1) << 2) | ((m >> k) & 3)
      this.#symbols[i] = ((z >> 15) << 7) | (token << 1) | (d < 0 ? 1 : 0)
      for (let bit = 0; bit < k; bit++) bits.push((m >> bit) & 1)
    }
    this.#raw = new Uint8Array(Math.ceil(bits.length / 8))
    for (const [i, bit] of bits.entries()) this.#raw[i >> 3]! |= bit << (i & 7)
  }
}

/** The lanes of a frame, with zeros up to full vectors. */
function lanesOf(frame: Uint8Array, { halves }: LaneKind): Uint16Array {
  const width = halves ? 4 : 2
  const count = frame.length / width
  const lanes = new Uint16Array(paddedLanes(count))
  for (let i = 0; i < count; i++) {
    lanes[i] = frame[(i + 1) * width - 2]! | (frame[(i + 1) * width - 1]! << 8)
  }
  return lanes
}

function sampleExponents(x: Uint16Array, { shift }: LaneKind): Uint32Array {
  const exponents = new Uint32Array(2 ** (15 - shift))
  for (let at = 0; at < x.length; at += SAMPLED_OF) {
    for (const lane of x.subarray(at, at + SAMPLED_LANES)) exponents[(lane & 0x7fff) >> shift]!++
  }
  return exponents
}

function contextOf(lane: number, top: number, { shift }: LaneKind): number {
  return Math.min(Math.max(top - ((lane & 0x7fff) >> shift), 0), 15)
}

function differingBlocks(x: Uint16Array, y: Uint16Array): Uint8Array<ArrayBuffer> {
  const bitmap = new Uint8Array(Math.ceil(x.length / BLOCK_LANES / 8))
  for (const [i, lane] of x.entries()) {
    const block = Math.floor(i / BLOCK_LANES)
    if (lane !== y[i]) bitmap[block >> 3]! |= 1 << (block & 7)
  }
  return bitmap
}

/** First lanes of the blocks whose bit is set. */
function* blocksOf(bitmap: Uint8Array): Generator<number> {
  for (let block = 0; block < bitmap.length * 8; block++) {
    if ((bitmap[block >> 3]! >> (block & 7)) & 1) yield block * BLOCK_LANES
  }
}

function gather(lanes: Uint16Array, bitmap: Uint8Array): Uint16Array<ArrayBuffer> {
  const firsts = [...blocksOf(bitmap)]
  const gathered = new Uint16Array(firsts.length * BLOCK_LANES)
  firsts.forEach((first, i) => {
    gathered.set(lanes.subarray(first, first + BLOCK_LANES), i * BLOCK_LANES)
  })
  return gathered
}

function scatter(lanes: Uint16Array, gathered: Uint16Array, bitmap: Uint8Array): void {
  let at = 0
  for (const first of blocksOf(bitmap)) {
    lanes.set(gathered.subarray(at, at + BLOCK_LANES), first)
    at += BLOCK_LANES
  }
}

function startsOf(frequencies: Uint16Array): number[] {
  let sum = 0
  return Array.from(frequencies, frequency => {
    sum += frequency
    return sum - frequency
  })
}

function decodeInPlace(stream: LaneStream, lanes: Uint16Array): void {
  const { kind, top, tables, words, raw } = stream
  const entries = tables.frequencies.map(frequencies => {
    const table = new Uint32Array(1024)
    decodingEntries(frequencies, table)
    return table
  })
  const states = Uint32Array.from(valuesOf(stream.states, 4))
  const queue = Uint16Array.from(valuesOf(words, 2))
  let taken = 0
  let bits = 0
  const next = () => (raw[bits >> 3]! >> (bits++ & 7)) & 1
  for (let i = 0; i < lanes.length; i++) {
    const before = lanes[i]!
    const state = states[i & 15]!
    const entry = entries[tables.contexts[contextOf(before, top, kind)]!]![state & 1023]!
    const popped = (entry >>> 21) * (state >>> 10) + ((entry >>> 8) & 0x1fff)
    states[i & 15] = popped < MIN_STATE ? popped * 65536 + (queue[taken++] ?? 0) : popped
    const token = (entry >> 1) & 63
    let m = token
    if (token >= 4) {
      const k = (token >> 2) - 1
      m = (4 | (token & 3)) << k
      for (let bit = 0; bit < k; bit++) m |= next() << bit
    }
    const moved = (before & 0x7fff) + (entry & 1 ? ~m : m)
    lanes[i] = moved ^ (before & 0x8000) ^ ((entry & 0x80) << 8)
  }
  evenEnd({ taken, bits, states: bytesOf32(states) }, { words, raw })
}

function valuesOf(bytes: Uint8Array, width: 2 | 4): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return Array.from({ length: bytes.length / width }, (_, i) =>
    width === 2 ? view.getUint16(i * 2, true) : view.getUint32(i * 4, true),
  )
}

function bytesOf32(values: Uint32Array): Uint8Array {
  const view = new DataView(new ArrayBuffer(values.length * 4))
  for (const [i, value] of values.entries()) view.setUint32(i * 4, value, true)
  return new Uint8Array(view.buffer)
}

function bytesOf16(values: readonly number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(values.length * 2))
  for (const [i, value] of values.entries()) view.setUint16(i * 2, value, true)
  return new Uint8Array(view.buffer)
}
