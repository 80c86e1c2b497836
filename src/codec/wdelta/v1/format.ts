import type { Dtype } from '../../base/dtypes.ts'
import type { RecordStrategy } from '../../base/strategies.ts'

/** Bytes before the JSON header: magic, uint32 version, uint32 header length. */
export const PREFIX_BYTES = 15

/** One array of a tensor: its name in the file, the numpy dtype that it must have, and the bytes of an element. */
export interface ArrayField {
  readonly name: string
  readonly dtype: 'int64' | 'float32' | 'float16' | 'uint8'
  readonly itemBytes: number
}

/** The arrays of each strategy in the order in which the reference writes them. */
export const FIELDS: Readonly<Record<RecordStrategy, readonly ArrayField[]>> = {
  sparse: [
    { name: 'indices', dtype: 'int64', itemBytes: 8 },
    { name: 'values', dtype: 'float32', itemBytes: 4 },
  ],
  quantized: [
    { name: 'scales', dtype: 'float16', itemBytes: 2 },
    { name: 'packed_signs', dtype: 'uint8', itemBytes: 1 },
  ],
  int4: [
    { name: 'outlier_idx', dtype: 'int64', itemBytes: 8 },
    { name: 'outlier_vals', dtype: 'float16', itemBytes: 2 },
    { name: 'scale', dtype: 'float16', itemBytes: 2 },
    { name: 'zero_point', dtype: 'float16', itemBytes: 2 },
    { name: 'packed', dtype: 'uint8', itemBytes: 1 },
  ],
}

interface EntryBase {
  readonly name: string
  readonly shape: readonly number[]
  /** Elements: the product of `shape`. */
  readonly count: number
  /** The dtype that the fine-tune had, where the file names it. */
  readonly tunedDtype: Dtype | null
}

export interface Int4Entry extends EntryBase {
  readonly strategy: 'int4'
  readonly outlierFraction: number
  /** 1 to `count - 1`. */
  readonly outliers: number
}

export interface SparseEntry extends EntryBase {
  readonly strategy: 'sparse'
  readonly sparsity: number
}

export interface QuantizedEntry extends EntryBase {
  readonly strategy: 'quantized'
  /** Elements of a row; divides `count`. */
  readonly columns: number
}

/** A tensor as the header of a record delta describes it. */
export type TensorEntry = Int4Entry | SparseEntry | QuantizedEntry

/** The header of a record delta, checked by itself; `tensors` are in header order. */
export interface RecordDeltaHeader {
  readonly parentHash: string
  readonly strategy: RecordStrategy
  readonly tensors: readonly TensorEntry[]
}

/**
 * Elements that an array must have according to the header. Null for the arrays of a sparse tensor, whose length stands in their records only.
 */
export function arrayLength(entry: TensorEntry, field: ArrayField): number | null {
  switch (entry.strategy) {
    case 'sparse':
      return null
    case 'quantized':
      return field.name === 'scales' ? entry.count / entry.columns : Math.ceil(entry.count / 8)
    case 'int4':
      if (field.name === 'packed') return Math.ceil((entry.count - entry.outliers) / 2)
      return field.name.startsWith('outlier') ? entry.outliers : 1
  }
}

/** Bytes of an array record before its data: three strings with uint32 lengths, uint32 rank 1, uint64 dimension and length. */
export function recordHeaderBytes(nameBytes: number, field: ArrayField): number {
  return 4 + nameBytes + 4 + field.name.length + 4 + field.dtype.length + 4 + 8 + 8
}
