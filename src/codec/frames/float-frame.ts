import { type Dtype, type FloatDtype, itemBytes } from '../base/dtypes.ts'
import type { FrameMachine } from '../kernels/machine.ts'

/**
 * One operation on the float32 values of a frame, in the order of a lineage. Numbers such as `indices` and `values` name parts: bytes, by
 * their place in the list that comes with the frame.
 */
export type FrameStep =
  /** Cast to `dtype` and back: the next delta is added to stored values, not to unrounded ones. */
  | { readonly op: 'round'; readonly dtype: FloatDtype }
  /**
   * Add an int4 delta. `indices` (int64) and `values` (float16) hold the outliers within the frame, indices
   * counted from the tensor's start; `packed` begins at the byte that holds the frame's first nibble.
   */
  | {
      readonly op: 'int4'
      readonly scale: number
      readonly zeroPoint: number
      /** 1 if the frame's first value is the low nibble of the first byte. */
      readonly nibble: 0 | 1
      readonly indices: number
      readonly values: number
      readonly packed: number
    }
  /** Add a sparse delta: `indices` (int64, from the tensor's start) and `values` (float32) within the frame. */
  | { readonly op: 'sparse'; readonly indices: number; readonly values: number }
  /** Add a 1-bit delta: `signs` begins at the byte of the frame's first bit, `scales` (float16) at its first row. */
  | {
      readonly op: 'quantized'
      /** Bit (0 = most significant) of the frame's first element in the first byte. */
      readonly bit: number
      /** Column of the frame's first element in its row. */
      readonly column: number
      readonly columns: number
      readonly signs: number
      readonly scales: number
    }

/**
 * A run of elements of one tensor that is computed in float32, without its neighbours: load the base's values, apply the steps, store.
 * Plain data: it crosses to a worker as it is.
 */
export interface FloatFrame {
  /** First element, counted from the tensor's start. */
  readonly first: number
  /** Elements, 1..FRAME_ELEMENTS. */
  readonly count: number
  /** dtype of part 0, the base's bytes. */
  readonly load: Dtype
  readonly steps: readonly FrameStep[]
  readonly store: FloatDtype
}

/** Elements that go through all steps at once: 256 KiB of float32, which stay in the cache of a processor's core. */
const BLOCK_ELEMENTS = 65_536

/**
 * Decodes a frame into `into`, which has room for its `count` elements in `frame.store`, little-endian.
 * `parts[0]` holds the base's `count` elements; the other parts are those that the steps name.
 * Arithmetic is float32 throughout and is cast once at each `round` and at the end (round to nearest even).
 * Source: deltatensors 0.2.0 `compress.py`, `compress_int4.py`, `io.py` (`load_delta_chain`).
 * @throws CodecError `part-length`, `index-order` for parts that do not belong to the frame
 */
export function decodeFrame(
  machine: FrameMachine,
  frame: FloatFrame,
  parts: readonly Uint8Array[],
  into: Uint8Array,
): void {
  let at = 0
  for (const block of blocksOf(frame, parts)) {
    applySteps(machine, block.frame, block.parts)
    const bytes = machine.store(frame.store)
    into.set(bytes, at)
    at += bytes.length
  }
}

/**
 * The values of `bytes`, whole elements of `dtype`, widened to float32, as a frame without steps gives them in F32. They come in runs, each a
 * view that the next invalidates.
 */
export function* widenedRuns(
  machine: FrameMachine,
  dtype: Dtype,
  bytes: Uint8Array,
): Generator<Uint8Array> {
  const item = itemBytes(dtype)
  const count = bytes.length / item
  for (let first = 0; first < count; first += BLOCK_ELEMENTS) {
    const run = Math.min(BLOCK_ELEMENTS, count - first)
    machine.load(dtype, bytes.subarray(first * item, (first + run) * item), run)
    yield machine.store('F32')
  }
}

interface Block {
  readonly frame: FloatFrame
  readonly parts: readonly Uint8Array[]
}

/** A frame as smaller ones. Lists of indices are cut by the numbers in them; each block checks that its part is within it. */
function* blocksOf(frame: FloatFrame, parts: readonly Uint8Array[]): Generator<Block> {
  if (frame.count <= BLOCK_ELEMENTS) {
    yield { frame, parts }
    return
  }
  const item = itemBytes(frame.load)
  /** Entries of each list of indices that earlier blocks took, by the list's place in `parts`. */
  const listed: number[] = []
  for (let from = 0; from < frame.count; from += BLOCK_ELEMENTS) {
    const to = Math.min(from + BLOCK_ELEMENTS, frame.count)
    const cut = [...parts]
    cut[0] = parts[0]!.subarray(from * item, to * item)
    /** Cuts a list of indices and its values of `width` bytes; gives the entries that earlier blocks took. */
    const cutList = (indices: number, values: number, width: number): number => {
      const list = parts[indices]!
      const before = listed[indices] ?? 0
      const isLast = to === frame.count
      const end = isLast ? list.length / 8 : lowerBound(list, before, frame.first + to)
      listed[indices] = end
      cut[indices] = list.subarray(before * 8, end * 8)
      cut[values] = parts[values]!.subarray(before * width, end * width)
      return before
    }
    const steps = frame.steps.map((step): FrameStep => {
      if (step.op === 'int4') {
        const codes = step.nibble + from - cutList(step.indices, step.values, 2)
        cut[step.packed] = parts[step.packed]!.subarray(codes >> 1)
        return { ...step, nibble: codes & 1 ? 1 : 0 }
      }
      if (step.op === 'quantized') {
        const [bit, column] = [step.bit + from, step.column + from]
        cut[step.signs] = parts[step.signs]!.subarray(bit >> 3)
        cut[step.scales] = parts[step.scales]!.subarray(Math.floor(column / step.columns) * 2)
        return { ...step, bit: bit & 7, column: column % step.columns }
      }
      if (step.op === 'sparse') cutList(step.indices, step.values, 4)
      return step
    })
    const part = { ...frame, first: frame.first + from, count: to - from, steps }
    yield { frame: part, parts: cut }
  }
}

/** The number of the first entry, from `from` on, of a list of ascending int64 that is not less than `index`. */
function lowerBound(list: Uint8Array, from: number, index: number): number {
  const view = new DataView(list.buffer, list.byteOffset, list.length)
  let [low, high] = [from, Math.floor(list.length / 8)]
  while (low < high) {
    const middle = (low + high) >> 1
    const found = view.getUint32(middle * 8, true) + view.getInt32(middle * 8 + 4, true) * 2 ** 32
    if (found < index) low = middle + 1
    else high = middle
  }
  return low
}

/** Leaves the float32 values of a frame in the machine's accumulator, without casting them: see {@link decodeFrame}. */
export function applySteps(
  machine: FrameMachine,
  frame: FloatFrame,
  parts: readonly Uint8Array[],
): void {
  machine.load(frame.load, parts[0]!, frame.count)
  for (const step of frame.steps) {
    switch (step.op) {
      case 'round':
        machine.round(step.dtype)
        break
      case 'int4':
        machine.addInt4({
          first: frame.first,
          scale: step.scale,
          zeroPoint: step.zeroPoint,
          nibble: step.nibble,
          indices: parts[step.indices]!,
          values: parts[step.values]!,
          packed: parts[step.packed]!,
        })
        break
      case 'sparse':
        machine.addSparse(frame.first, parts[step.indices]!, parts[step.values]!)
        break
      case 'quantized':
        machine.addQuantized({
          bit: step.bit,
          column: step.column,
          columns: step.columns,
          signs: parts[step.signs]!,
          scales: parts[step.scales]!,
        })
        break
    }
  }
}
