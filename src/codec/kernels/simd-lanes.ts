import { CodecError } from '../base/errors.ts'
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
import { evenEnd, paddedLanes, windowTop } from './lane-parts.ts'
import type { WasmAddress } from './web-assembly.ts'

/** What `assembly/coder.ts` exports; the addresses are those of `assembly/memory.ts`. */
export interface LaneKernels {
  readonly memory: { readonly buffer: ArrayBuffer }
  readonly X: WasmAddress
  readonly X2: WasmAddress
  readonly X3: WasmAddress
  readonly Y: WasmAddress
  readonly Y2: WasmAddress
  readonly Y3: WasmAddress
  readonly LOWS: WasmAddress
  readonly HIGHER_LOWS: WasmAddress
  readonly RAW: WasmAddress
  readonly RECORD: WasmAddress
  readonly WORDS: WasmAddress
  readonly WORDS_END: WasmAddress
  readonly BITMAP: WasmAddress
  readonly COUNTS: WasmAddress
  readonly DECODING: WasmAddress
  readonly ENCODING: WasmAddress
  readonly TABLES: WasmAddress
  readonly STATES: WasmAddress
  readonly RESULTS: WasmAddress
  changedBlocks(x: number, y: number, bytes: number): number
  gatherBlocks(to: number, from: number, blocks: number): void
  scatterBlocks(to: number, from: number, blocks: number): number
  upperHalves(to: number, from: number, count: number): void
  splitLows(x: number, y: number, count: number): void
  joinHalves(to: number, high: number, count: number): void
  countExponents(x: number, count: number, shift: number, stride: number): void
  takeSymbols(x: number, y: number, count: number): number
  countSymbols(x: number, count: number, top: number, shift: number): void
  encodeLanes(x: number, count: number, top: number, shift: number): number
  decodeLanes(x: number, y: number, count: number, top: number, shift: number): number
}

/** Sum of a table's frequencies. */
const TOTAL = 1024
/** Bytes of a block of lanes. */
const BLOCK = 32
/** Bytes of zeros after the lanes, which fill the last block and the last 16 lanes. */
const PADDING = 64
/** Vectors of a frame for each one that is looked at to place the window. */
const SAMPLED = 16

/** The lanes that are coded: the addresses of their predictions and of the lanes, and their number. */
interface Coded {
  readonly x: number
  readonly y: number
  readonly count: number
}

/** The operations of a {@link LaneMachine} in WebAssembly: see `PlainLanes` for what they mean. */
export class SimdLanes implements LaneMachine {
  readonly record: Uint8Array<ArrayBuffer>
  readonly #kernels: LaneKernels
  readonly #bytes: Uint8Array<ArrayBuffer>
  /** Bytes of the frame that was compared. */
  #size = 0
  /** Addresses of its prediction and of itself. */
  #x = 0
  #y = 0
  #kind: LaneKind = { shift: 7, halves: false }
  #lanes = 0
  #coded: Coded = { x: 0, y: 0, count: 0 }
  #top = 0
  #rawBytes = 0

  /** `kernels` are the exports of an instance of `kernels.wasm`. */
  constructor(kernels: LaneKernels) {
    this.#kernels = kernels
    const { buffer } = kernels.memory
    this.#bytes = new Uint8Array(buffer)
    this.record = new Uint8Array(buffer, kernels.RECORD.value, FRAME_BYTES)
  }

  compare(prediction: Uint8Array, frame: Uint8Array) {
    const { X, Y, BITMAP } = this.#kernels
    this.#size = frame.length
    this.#x = this.#place(X, prediction)
    this.#y = this.#place(Y, frame)
    const padded = Math.ceil(frame.length / BLOCK) * BLOCK
    const changed = this.#kernels.changedBlocks(this.#x, this.#y, padded)
    const bytes = Math.ceil(padded / BLOCK / 8)
    return { changed, differing: this.#view(BITMAP, bytes) }
  }

  model(kind: LaneKind, skip: boolean): LaneModel {
    const { X2, X3, Y2, Y3 } = this.#kernels
    this.#kind = kind
    this.#lanes = this.#size / (kind.halves ? 4 : 2)
    let all = { x: this.#x, y: this.#y, count: paddedLanes(this.#lanes) }
    let [toX, toY] = [X2.value, Y2.value]
    if (kind.halves) {
      this.#takeUpper(this.#x, X2.value)
      this.#takeUpper(this.#y, Y2.value)
      all = { ...all, x: X2.value, y: Y2.value }
      toX = X3.value
      toY = Y3.value
    }
    this.#coded = skip ? this.#takeChanged(all, toX, toY) : all
    return this.#count()
  }

  bitmap(): Uint8Array {
    return this.#view(this.#kernels.BITMAP, Math.ceil(paddedLanes(this.#lanes) / 16 / 8))
  }

  lows(): Uint8Array {
    const { LOWS, HIGHER_LOWS } = this.#kernels
    const count = this.#lanes
    this.#kernels.splitLows(this.#x, this.#y, count)
    const lows = new Uint8Array(count * 2)
    lows.set(this.#view(LOWS, count))
    lows.set(this.#view(HIGHER_LOWS, count), count)
    return lows
  }

  code(tables: LaneTables): CodedLanes {
    const { WORDS_END, RAW, STATES } = this.#kernels
    this.#putEncoding(tables)
    const { x, count } = this.#coded
    const begin = this.#kernels.encodeLanes(x, count, this.#top, this.#kind.shift)
    return {
      states: this.#view(STATES, 64),
      words: this.#bytes.subarray(begin, WORDS_END.value),
      raw: this.#view(RAW, this.#rawBytes),
    }
  }

  decode(stream: LaneStream, frame: Uint8Array): void {
    const { kind, bitmap, lows } = stream
    const { X, X2, X3, BITMAP, LOWS, HIGHER_LOWS } = this.#kernels
    this.#size = frame.length
    this.#lanes = frame.length / (kind.halves ? 4 : 2)
    const at = this.#place(X, frame)
    if (kind.halves) this.#takeUpper(at, X2.value)
    const lanes = kind.halves ? X2.value : at
    if (bitmap) {
      const gathered = kind.halves ? X3.value : X2.value
      const blocks = bitmap.length * 8
      this.#bytes.set(bitmap, BITMAP.value)
      this.#kernels.gatherBlocks(gathered, lanes, blocks)
      this.#decode(stream, gathered, countBits(bitmap) * 16)
      this.#kernels.scatterBlocks(lanes, gathered, blocks)
    } else this.#decode(stream, lanes, paddedLanes(this.#lanes))
    if (lows) {
      this.#bytes.set(lows.subarray(0, this.#lanes), LOWS.value)
      this.#bytes.set(lows.subarray(this.#lanes), HIGHER_LOWS.value)
      this.#kernels.joinHalves(at, X2.value, this.#lanes)
    }
    if (at === X.value) frame.set(this.#bytes.subarray(at, at + frame.length))
  }

  #decode({ kind, top, tables, states, words, raw }: LaneStream, at: number, count: number): void {
    const { RAW, WORDS, STATES, RESULTS } = this.#kernels
    this.#putDecoding(tables)
    this.#bytes.set(states, STATES.value)
    this.#bytes.set(words, WORDS.value)
    this.#bytes.set(raw, RAW.value)
    const taken = this.#kernels.decodeLanes(at, at, count, top, kind.shift)
    const bits = new Int32Array(this.#bytes.buffer, RESULTS.value, 1)[0]!
    evenEnd({ taken, bits, states: this.#view(STATES, 64) }, { words, raw })
  }

  /** Samples the exponents, takes the symbols and counts them. */
  #count(): LaneModel {
    const { COUNTS } = this.#kernels
    const { x, y, count } = this.#coded
    const { shift } = this.#kind
    this.#kernels.countExponents(x, count, shift, 16 * SAMPLED)
    this.#top = windowTop(this.#words(COUNTS.value, 2 ** (15 - shift)))
    this.#rawBytes = this.#kernels.takeSymbols(x, y, count)
    this.#kernels.countSymbols(x, count, this.#top, shift)
    const counts = this.#words(COUNTS.value, 16 * 256)
    return { count, top: this.#top, counts, rawBytes: this.#rawBytes }
  }

  #takeChanged({ x, y, count }: Coded, toX: number, toY: number): Coded {
    const changed = this.#kernels.changedBlocks(x, y, count * 2)
    const blocks = Math.ceil(count / 16 / 8) * 8
    this.#kernels.gatherBlocks(toX, x, blocks)
    this.#kernels.gatherBlocks(toY, y, blocks)
    return { x: toX, y: toY, count: changed * 16 }
  }

  #takeUpper(from: number, to: number): void {
    this.#kernels.upperHalves(to, from, this.#lanes)
    this.#bytes.fill(0, to + this.#lanes * 2, to + this.#lanes * 2 + PADDING)
  }

  #putEncoding({ contexts, frequencies }: LaneTables): void {
    const { ENCODING, TABLES } = this.#kernels
    const view = new DataView(this.#bytes.buffer)
    this.#bytes.set(contexts, TABLES.value)
    frequencies.forEach((table, i) => {
      let start = 0
      for (let symbol = 0; symbol < 256; symbol++) {
        const frequency = table[symbol]!
        if (frequency === 0) continue
        const at = ENCODING.value + (i * 256 + symbol) * 16
        // A little more than the inverse, so that no quotient falls below the whole number that it should reach.
        view.setFloat64(at, (1 / frequency) * (1 + 2 ** -50), true)
        view.setUint32(at + 8, TOTAL - frequency, true)
        view.setUint32(at + 12, start, true)
        start += frequency
      }
    })
  }

  #putDecoding({ contexts, frequencies }: LaneTables): void {
    const { DECODING, TABLES } = this.#kernels
    this.#bytes.set(contexts, TABLES.value)
    frequencies.forEach((table, i) => {
      decodingEntries(table, this.#words(DECODING.value + i * 4096, 1024))
    })
  }

  /** The address of bytes in the kernels' memory: their own if they lie there and need no padding, else `area`, where they are copied to. */
  #place({ value }: WasmAddress, bytes: Uint8Array): number {
    if (bytes.length > FRAME_BYTES) {
      const message = `a frame has at most ${FRAME_BYTES} bytes, got ${bytes.length}`
      throw new CodecError('model', 'frame-size', message)
    }
    if (bytes.buffer === this.#bytes.buffer && bytes.length % PADDING === 0) return bytes.byteOffset
    this.#bytes.set(bytes, value)
    this.#bytes.fill(0, value + bytes.length, value + bytes.length + PADDING)
    return value
  }

  #view({ value }: WasmAddress, length: number): Uint8Array {
    return this.#bytes.subarray(value, value + length)
  }

  #words(at: number, count: number): Uint32Array {
    return new Uint32Array(this.#bytes.buffer, at, count)
  }
}

function countBits(bitmap: Uint8Array): number {
  let count = 0
  for (let byte of bitmap) for (; byte; byte &= byte - 1) count++
  return count
}
