import type { Test } from 'tap'
import { CodecError } from '../../../../src/codec/base/errors.ts'
import type { RecordDeltaReaderOptions } from '../../../../src/codec/wdelta/v1/reader.ts'
import {
  deltaFile,
  f16s,
  f32s,
  i64s,
  PARENT,
  type Record,
  readDelta,
  record,
} from '../../../support/models/wdelta-files.ts'

export type Json = { [key: string]: unknown }

export const ref = (...fields: string[]): Json =>
  Object.fromEntries(fields.map(field => [field, { _ref: field }]))

export const sparseEntry = (changes: Json = {}): Json => ({
  strategy: 'sparse',
  shape: [2, 5],
  dtype: 'float32',
  sparsity: 0.7,
  ...ref('indices', 'values'),
  ...changes,
})

const quantizedEntry = (changes: Json = {}): Json => ({
  strategy: 'quantized',
  shape: [3, 5],
  dtype: 'float32',
  n_elements: 15,
  n_cols: 5,
  ...ref('scales', 'packed_signs'),
  ...changes,
})

export const int4Entry = (changes: Json = {}): Json => ({
  strategy: 'int4',
  shape: [9],
  dtype: 'float32',
  outlier_fraction: 0.2,
  n_elements: 9,
  n_outliers: 2,
  ...ref('outlier_idx', 'outlier_vals', 'scale', 'zero_point', 'packed'),
  ...changes,
})

export const indices = (data = i64s(0, 4, 9)): Record => record('s', 'indices', 'int64', 8, data)
export const values = (data = f32s(1, -2, 3)): Record => record('s', 'values', 'float32', 4, data)
export const scales = (data = f16s(0.5, 0, 1)): Record => record('q', 'scales', 'float16', 2, data)
export const signs = (data = Uint8Array.of(0xa5, 0xfe)): Record =>
  record('q', 'packed_signs', 'uint8', 1, data)
export const outlierIdx = (data = i64s(3, 8)): Record =>
  record('i', 'outlier_idx', 'int64', 8, data)
export const outlierVals = (data = f16s(7, -7)): Record =>
  record('i', 'outlier_vals', 'float16', 2, data)
export const scale = (data = f16s(0.25)): Record => record('i', 'scale', 'float16', 2, data)
export const zeroPoint = (data = f16s(-0.5)): Record =>
  record('i', 'zero_point', 'float16', 2, data)
export const packed = (data = Uint8Array.of(0x01, 0x23, 0x45, 0x60)): Record =>
  record('i', 'packed', 'uint8', 1, data)

export const headerOf = (tensors: Json, changes: Json = {}): Json => ({
  parent_hash: PARENT,
  strategy: 'int4',
  tensors,
  ...changes,
})
export const allEntries = { s: sparseEntry(), q: quantizedEntry(), i: int4Entry() }
export const sparseRecords = [indices(), values()]
export const quantizedRecords = [scales(), signs()]
export const int4Records = [outlierIdx(), outlierVals(), scale(), zeroPoint(), packed()]
export const allRecords = [...sparseRecords, ...quantizedRecords, ...int4Records]

export const sparseFile = (
  records: readonly (Record | Uint8Array)[],
  changes: Json = {},
): Uint8Array => deltaFile(headerOf({ s: sparseEntry(changes) }), records)
export const quantizedFile = (records: readonly Record[], changes: Json = {}): Uint8Array =>
  deltaFile(headerOf({ q: quantizedEntry(changes) }), records)
export const int4File = (records: readonly Record[], changes: Json = {}): Uint8Array =>
  deltaFile(headerOf({ i: int4Entry(changes) }), records)
/** int4's records with one put in the place of the one that has its field. */
export const int4With = (other: Record): Record[] =>
  int4Records.map(one => (one.field === other.field ? other : one))

/** The rule by which a file is refused; the same whole, in single bytes and in pieces. */
export function ruleOf(t: Test, file: Uint8Array, options?: RecordDeltaReaderOptions): string {
  const rules = [file.length, 1, 7].map(step => {
    try {
      readDelta(file, Math.max(step, 1), options)
      return 'accepted'
    } catch (error) {
      if (!(error instanceof CodecError) || error.kind !== 'delta') throw error
      return error.rule
    }
  })
  t.equal(new Set(rules).size, 1, `the same in pieces of any size: ${rules}`)
  return rules[0]!
}
