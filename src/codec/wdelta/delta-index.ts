import type { Dtype } from '../base/dtypes.ts'
import type { ByteRange } from '../base/ranges.ts'
import type { FrameStrategy, RecordStrategy } from '../base/strategies.ts'
import type { Shard } from '../safetensors/layout.ts'

interface TensorBase {
  readonly name: string
  readonly shape: readonly number[]
  /** Elements: the product of `shape`. */
  readonly count: number
  /** The dtype that the fine-tune had, where the file names it. */
  readonly tunedDtype: Dtype | null
  /** True if every element of the delta is +0 or -0. */
  readonly zero: boolean
  /** Outliers or sparse values that are NaN or infinite. */
  readonly nonFinite: number
}

/**
 * How many kept elements come before each cell: see {@link rankAt}. It has an entry per cell, or only per cell that keeps something: a tensor
 * of 2^40 elements that keeps three has four ranks.
 */
export interface CellRanks {
  /** Without `cells`: the kept elements before element `i * CELL`, for `i` from 0 to `ceil(count / CELL)`, both included. */
  readonly ranks: readonly number[]
  /**
   * Present if most cells keep nothing: the numbers of those that keep something, ascending. `ranks[i]` is then the kept elements before
   * cell `cells[i]`, and the last of `ranks` is the number of all kept elements.
   */
  readonly cells?: readonly number[]
}

/** Kept elements before element `cell * CELL`; `cell` is 0 to `ceil(count / CELL)`. */
export function rankAt({ ranks, cells }: CellRanks, cell: number): number {
  if (!cells) return ranks[cell]!
  let low = 0
  let high = cells.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (cells[middle]! < cell) low = middle + 1
    else high = middle
  }
  return ranks[low]!
}

/** Ranges are of the `.wdelta` file: the data of an array, without its record header. */
export interface Int4Tensor extends TensorBase, CellRanks {
  readonly strategy: 'int4'
  readonly outlierFraction: number
  readonly outliers: number
  /** The float16 scalars, widened. */
  readonly scale: number
  readonly zeroPoint: number
  readonly outlierIdx: ByteRange
  readonly outlierVals: ByteRange
  readonly packed: ByteRange
}

/** Ranges as of {@link Int4Tensor}. */
export interface SparseTensor extends TensorBase, CellRanks {
  readonly strategy: 'sparse'
  readonly sparsity: number
  readonly kept: number
  readonly indices: ByteRange
  readonly values: ByteRange
}

/** Ranges as of {@link Int4Tensor}. */
export interface QuantizedTensor extends TensorBase {
  readonly strategy: 'quantized'
  readonly columns: number
  readonly scales: ByteRange
  readonly packedSigns: ByteRange
}

export type RecordTensor = Int4Tensor | SparseTensor | QuantizedTensor

/**
 * A `.wdelta` of version 1: array records, which are added to the parent's values in float32. This is what random access into it needs,
 * gathered by one pass over it. Plain data: it survives JSON.
 */
export interface RecordDelta {
  readonly format: 1
  readonly parentHash: string
  readonly strategy: RecordStrategy
  /** Bytes of the whole file. */
  readonly size: number
  /** In the order of the array records, in which the saver hashed its parent; the header may have another order. */
  readonly tensors: readonly RecordTensor[]
  /** What only a frame delta has, so that {@link DeltaIndex} can be asked for it. */
  readonly parentIdentity?: undefined
  readonly shards?: undefined
  readonly records?: undefined
  readonly frames?: undefined
}

/** Where the data of a tensor's arrays is in the `.wdelta`: without their record headers, and without the two scalars of int4. */
export function arraysOf(tensor: RecordTensor): ByteRange[] {
  switch (tensor.strategy) {
    case 'int4':
      return [tensor.outlierIdx, tensor.outlierVals, tensor.packed]
    case 'sparse':
      return [tensor.indices, tensor.values]
    case 'quantized':
      return [tensor.scales, tensor.packedSigns]
  }
}

/** Bytes of the two float16 scalars of an int4 tensor: its scale and its zero point. */
const INT4_SCALAR_BYTES = 4

/** Bytes of a tensor's arrays in the `.wdelta`, the two scalars of int4 included, record headers not. */
export function recordTensorBytes(tensor: RecordTensor): number {
  const scalars = tensor.strategy === 'int4' ? INT4_SCALAR_BYTES : 0
  return arraysOf(tensor).reduce((sum, { start, end }) => sum + end - start, scalars)
}

/** The tensor of the parent that predicts one of a frame delta. */
export interface TensorSource {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
}

/** One tensor of a frame delta. */
export interface FrameTensor {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  /** Elements: the product of `shape`. */
  readonly count: number
  readonly bytes: number
  readonly source: TensorSource | null
  /** Its frames are `[firstFrame, firstFrame + ceil(bytes / FRAME_BYTES))` of the index. */
  readonly firstFrame: number
}

/** A shard as it was published: its reconstruction has this SHA-256 (hex). */
export interface HashedShard extends Shard {
  readonly sha256: string
}

/**
 * A `.wdelta` of version 2: frames, each of which restores the bytes of a run of a tensor from a prediction that the parent gives. This is
 * its own index, checked.
 */
export interface FrameDelta {
  readonly format: 2
  readonly strategy: FrameStrategy
  /** The reference's hash of the parent's stored bytes, and our identity of it, both hex. */
  readonly parentHash: string
  readonly parentIdentity: string
  /** Bytes of the whole file. */
  readonly size: number
  /** In the order in which they were written. */
  readonly shards: readonly HashedShard[]
  /** In the order of the shards, and in a shard by offset. */
  readonly tensors: readonly FrameTensor[]
  /** By record: where its stored bytes begin in the file, how many they are, and their xxh64. */
  readonly records: {
    readonly starts: Float64Array
    readonly lengths: Uint32Array
    readonly checksums: BigUint64Array
  }
  /** By frame: the number of its encoding in ENCODINGS, its record (NO_RECORD for `copy`), and the xxh64 of its bytes. */
  readonly frames: {
    readonly encodings: Uint8Array
    readonly records: Uint32Array
    readonly checksums: BigUint64Array
  }
}

/**
 * A `.wdelta` of either form. Ask it for what you need, not for its version: one with `parentIdentity` names its parent by that, one with
 * `shards` gives files, one with `frames` restores stored bytes. One without them is added to values in float32.
 */
export type DeltaIndex = RecordDelta | FrameDelta
