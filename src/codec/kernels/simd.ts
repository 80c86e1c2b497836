import { type Dtype, type FloatDtype, itemBytes } from '../base/dtypes.ts'
import { FRAME_ELEMENTS } from '../base/limits.ts'
import { widen } from '../base/widen.ts'
import type { LaneMachine } from './lane-machine.ts'
import type {
  Cut,
  Extremes,
  FrameError,
  FrameMachine,
  Int4Codes,
  Int4Grid,
  Int4Run,
  Kept,
  QuantizedRun,
  Ranks,
} from './machine.ts'
import {
  checkElements,
  checkInt4,
  checkListed,
  checkQuantized,
  int4Table,
  readOffsets,
} from './parts.ts'
import { histogramHigh } from './plain-encode.ts'
import { type LaneKernels, SimdLanes } from './simd-lanes.ts'
import { Instance, Module, type WasmAddress, type WasmModule } from './web-assembly.ts'

type Cast = (to: number, from: number, count: number) => void

/** What `assembly/index.ts` exports; the addresses are those of `assembly/memory.ts`. */
interface Kernels extends LaneKernels {
  readonly memory: { readonly buffer: ArrayBuffer }
  readonly ACC: WasmAddress
  readonly A: WasmAddress
  readonly B: WasmAddress
  readonly C: WasmAddress
  readonly OUT: WasmAddress
  readonly OTHER: WasmAddress
  readonly ROUNDED: WasmAddress
  readonly RESULTS: WasmAddress
  readonly PLANES: WasmAddress
  readonly BLOCK: WasmAddress
  readonly ARENA: WasmAddress
  readonly ARENA_BYTES: WasmAddress
  readonly loadBF16: Cast
  readonly loadF16: Cast
  readonly loadF64: Cast
  readonly storeBF16: Cast
  readonly storeF16: Cast
  readonly storeF64: Cast
  readonly roundBF16: Cast
  readonly roundF16: Cast
  readonly subtractFrom: Cast
  addInt4(count: number, first: bigint, listed: number, nibble: number): number
  addSparse(count: number, first: bigint, listed: number): number
  addQuantized(count: number, bit: number, head: number, columns: number, rows: number): void
  countAbove(count: number, threshold: number): void
  selectTop(count: number, threshold: number, positive: number, negative: number): number
  quantizeInt4(
    count: number,
    threshold: number,
    positive: number,
    negative: number,
    min: number,
    range: number,
    mask: number,
    nibble: number,
  ): number
  collectHigh(count: number, high: number): number
  packSigns(count: number, bit: number): void
  pairwiseAbsSum(at: number, count: number): number
  addError(actual: number, expected: number, count: number): void
  sumOfSquares(count: number): void
  beginChecksum(): void
  addStripes(at: number, bytes: number): void
  endChecksum(at: number, bytes: number, total: number): bigint
}

/** Bytes of a checksum's stripe. */
const STRIPE = 32
/** Bytes of other memory that are copied at a time to take their checksum: the size of OUT. */
const CHECKED_BYTES = 8 * 1024 * 1024

/**
 * A machine whose operations are the kernels of `kernels.wasm`, given as its bytes or as the `WebAssembly.Module`
 * compiled from them: the codec does no I/O. It reserves 44 MiB of address space, and touches what frames need.
 * @throws WebAssembly.CompileError where SIMD is missing.
 */
export function openKernels(wasm: Uint8Array<ArrayBuffer> | WasmModule): SimdMachine {
  const module = wasm instanceof Uint8Array ? new Module(wasm as Uint8Array<ArrayBuffer>) : wasm
  return new SimdMachine(new Instance(module).exports as Kernels)
}

/** The operations of a {@link FrameMachine} in WebAssembly: see `PlainMachine` for what they mean. */
export class SimdMachine implements FrameMachine {
  readonly #kernels: Kernels
  readonly #bytes: Uint8Array<ArrayBuffer>
  readonly #all: Float32Array<ArrayBuffer>
  readonly #acc: number
  readonly #block: number
  #count = 0
  readonly arena: Uint8Array<ArrayBuffer>
  readonly lanes: LaneMachine

  /** `kernels` are the exports of an instance of `kernels.wasm`: see {@link openKernels}. */
  constructor(kernels: Kernels) {
    const { buffer } = kernels.memory
    this.#kernels = kernels
    this.#acc = kernels.ACC.value
    this.#block = kernels.BLOCK.value
    this.#bytes = new Uint8Array(buffer)
    this.#all = new Float32Array(buffer, this.#acc, FRAME_ELEMENTS)
    this.lanes = new SimdLanes(kernels)
    this.arena = new Uint8Array(buffer, kernels.ARENA.value, kernels.ARENA_BYTES.value)
  }

  checksum(bytes: Uint8Array): bigint {
    const { OUT } = this.#kernels
    const isHere = bytes.buffer === this.#bytes.buffer
    const step = isHere ? bytes.length : CHECKED_BYTES
    this.#kernels.beginChecksum()
    let rest = { at: OUT.value, bytes: 0 }
    for (let from = 0; from < bytes.length; from += step) {
      const piece = bytes.subarray(from, from + step)
      if (!isHere) this.#bytes.set(piece, OUT.value)
      const at = isHere ? piece.byteOffset : OUT.value
      const striped = piece.length - (piece.length % STRIPE)
      this.#kernels.addStripes(at, striped)
      rest = { at: at + striped, bytes: piece.length - striped }
    }
    return BigInt.asUintN(64, this.#kernels.endChecksum(rest.at, rest.bytes, bytes.length))
  }

  load(dtype: Dtype, bytes: Uint8Array, count: number): void {
    checkElements(dtype, bytes, count)
    this.#count = count
    if (dtype === 'F32') this.#bytes.set(bytes.subarray(0, count * 4), this.#acc)
    else if (dtype === 'F64' || dtype === 'F16' || dtype === 'BF16') {
      for (let at = 0; at < count; at += this.#block) {
        this.#widen(dtype, bytes, at, this.#acc + at * 4)
      }
    } else widen(dtype, bytes, count, this.values())
  }

  round(dtype: FloatDtype): void {
    this.#round(dtype, this.#acc, this.#acc, this.#count)
  }

  addInt4(run: Int4Run): void {
    const { A, B, C, PLANES } = this.#kernels
    const listed = checkInt4(run, this.#count)
    this.#put(run.indices, A)
    this.#put(run.values.subarray(0, listed * 2), B)
    this.#put(run.packed.subarray(0, (run.nibble + this.#count - listed + 1) >> 1), C)
    const table = new Uint8Array(int4Table(run.scale, run.zeroPoint).buffer)
    for (let i = 0; i < 64; i++) this.#bytes[PLANES.value + (i & 3) * 16 + (i >> 2)] = table[i]!
    if (!this.#kernels.addInt4(this.#count, BigInt(run.first), listed, run.nibble)) {
      readOffsets(run.indices, run.first, this.#count)
    }
  }

  addSparse(first: number, indices: Uint8Array, values: Uint8Array): void {
    const listed = checkListed(indices, values, 4, this.#count)
    this.#put(indices, this.#kernels.A)
    this.#put(values.subarray(0, listed * 4), this.#kernels.B)
    if (!this.#kernels.addSparse(this.#count, BigInt(first), listed)) {
      readOffsets(indices, first, this.#count)
    }
  }

  addQuantized(run: QuantizedRun): void {
    const rows = checkQuantized(run, this.#count)
    this.#put(run.signs.subarray(0, (run.bit + this.#count + 7) >> 3), this.#kernels.A)
    this.#put(run.scales.subarray(0, rows * 2), this.#kernels.B)
    const head = Math.min(run.columns - run.column, this.#count)
    const columns = Math.min(run.columns, this.#count)
    this.#kernels.addQuantized(this.#count, run.bit, head, columns, rows)
  }

  store(dtype: FloatDtype): Uint8Array<ArrayBuffer> {
    const out = this.#kernels.OUT.value
    if (dtype === 'F32') return this.#bytes.subarray(this.#acc, this.#acc + this.#count * 4)
    if (dtype === 'BF16') this.#kernels.storeBF16(out, this.#acc, this.#count)
    else if (dtype === 'F16') this.#kernels.storeF16(out, this.#acc, this.#count)
    else this.#kernels.storeF64(out, this.#acc, this.#count)
    return this.#bytes.subarray(out, out + this.#count * itemBytes(dtype))
  }

  subtractFrom(dtype: Dtype, tuned: Uint8Array): void {
    checkElements(dtype, tuned, this.#count)
    const other = this.#kernels.OTHER.value
    for (let at = 0; at < this.#count; at += this.#block) {
      const count = this.#widen(dtype, tuned, at, other)
      this.#kernels.subtractFrom(this.#acc + at * 4, other, count)
    }
  }

  values(): Float32Array<ArrayBuffer> {
    return this.#all.subarray(0, this.#count)
  }

  histogramHigh(into: Uint32Array): void {
    histogramHigh(this.values(), into)
  }

  histogramLow(high: number, positive: Uint32Array, negative: Uint32Array): Extremes {
    const found = this.#kernels.collectHigh(this.#count, high)
    const extremes = this.#floats(this.#kernels.RESULTS, 8)
    for (const bits of this.#words(this.#kernels.OUT, found)) {
      const bins = bits >>> 31 ? negative : positive
      bins[bits & 0x7fff]!++
    }
    return { min: Math.min(...extremes.subarray(0, 4)), max: Math.max(...extremes.subarray(4)) }
  }

  countAbove(threshold: number): Ranks {
    this.#kernels.countAbove(this.#count, threshold)
    const results = this.#words(this.#kernels.RESULTS, 3)
    return { above: results[0]!, positiveTies: results[1]!, negativeTies: results[2]! }
  }

  selectTop(cut: Cut): Kept {
    const { threshold, positive, negative } = this.#limits(cut)
    return this.#kept(this.#kernels.selectTop(this.#count, threshold, positive, negative))
  }

  quantizeInt4(grid: Int4Grid): Int4Codes {
    const { min, range, nibble } = grid
    const { threshold, positive, negative } = this.#limits(grid)
    const mask = range < 1e-8 ? 0 : 15
    const listed = this.#kernels.quantizeInt4(
      this.#count,
      threshold,
      positive,
      negative,
      min,
      range,
      mask,
      nibble,
    )
    const length = (nibble + this.#count - listed + 1) >> 1
    return { ...this.#kept(listed), packed: this.#copy(this.#kernels.C, length) }
  }

  packSigns(bit: number): Uint8Array<ArrayBuffer> {
    this.#kernels.packSigns(this.#count, bit)
    return this.#copy(this.#kernels.OUT, (bit + this.#count + 7) >> 3)
  }

  pairwiseAbsSum(first: number, count: number): number {
    return this.#kernels.pairwiseAbsSum(this.#acc + first * 4, count)
  }

  errorAgainst(dtype: Dtype, tuned: Uint8Array, stored: FloatDtype): FrameError {
    checkElements(dtype, tuned, this.#count)
    const { addError, RESULTS } = this.#kernels
    const other = this.#kernels.OTHER.value
    const rounded = this.#kernels.ROUNDED.value
    const sums = new Float64Array(this.#bytes.buffer, RESULTS.value, 6).fill(0)
    for (let at = 0; at < this.#count; at += this.#block) {
      const count = this.#widen(dtype, tuned, at, other)
      this.#round(stored, rounded, this.#acc + at * 4, count)
      addError(rounded, other, count)
    }
    return {
      squaredError: sums[0]! + sums[1]! + (sums[2]! + sums[3]!),
      maxAbs: Math.max(sums[4]!, sums[5]!),
    }
  }

  sumOfSquares(): number {
    this.#kernels.sumOfSquares(this.#count)
    const sums = new Float64Array(this.#bytes.buffer, this.#kernels.RESULTS.value, 4)
    return sums[0]! + sums[1]! + (sums[2]! + sums[3]!)
  }

  /** Casts `count` values at `from` to `dtype` and back, to `to`. */
  #round(dtype: FloatDtype, to: number, from: number, count: number): void {
    if (dtype === 'BF16') this.#kernels.roundBF16(to, from, count)
    else if (dtype === 'F16') this.#kernels.roundF16(to, from, count)
    else if (to !== from) this.#bytes.copyWithin(to, from, from + count * 4)
  }

  /** A cut in numbers that fit the kernels' 32 bits: no frame has more ties than elements. */
  #limits({ threshold, takePositive, takeNegative }: Cut) {
    const positive = Math.min(takePositive, this.#count)
    const negative = Math.min(takeNegative, this.#count)
    return { threshold, positive, negative }
  }

  #kept(listed: number): Kept {
    return {
      offsets: this.#words(this.#kernels.A, listed).slice(),
      values: this.#floats(this.#kernels.B, listed).slice(),
    }
  }

  #words(area: WasmAddress, length: number): Uint32Array<ArrayBuffer> {
    return new Uint32Array(this.#bytes.buffer, area.value, length)
  }

  #floats(area: WasmAddress, length: number): Float32Array<ArrayBuffer> {
    return new Float32Array(this.#bytes.buffer, area.value, length)
  }

  #copy(area: WasmAddress, length: number): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(area.value, area.value + length)
  }

  #put(bytes: Uint8Array, area: WasmAddress): void {
    this.#bytes.set(bytes, area.value)
  }

  /** Widens one block of `bytes`, from element `at` on, to address `to`; returns its elements. */
  #widen(dtype: Dtype, bytes: Uint8Array, at: number, to: number): number {
    const { A, loadBF16, loadF16, loadF64 } = this.#kernels
    const count = Math.min(this.#block, this.#count - at)
    const width = itemBytes(dtype)
    const part = bytes.subarray(at * width, (at + count) * width)
    if (dtype === 'F32') {
      this.#bytes.set(part, to)
    } else if (dtype === 'BF16' || dtype === 'F16' || dtype === 'F64') {
      const cast = dtype === 'BF16' ? loadBF16 : dtype === 'F16' ? loadF16 : loadF64
      // What lies in the kernels' memory is read where it is.
      const here = part.buffer === this.#bytes.buffer
      if (!here) this.#put(part, A)
      cast(to, here ? part.byteOffset : A.value, count)
    } else {
      widen(dtype, part, count, new Float32Array(this.#bytes.buffer, to, count))
    }
    return count
  }
}
