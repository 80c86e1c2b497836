import { type Dtype, isFloat } from '../../base/dtypes.ts'
import { CodecError, namedTensor } from '../../base/errors.ts'
import { DIGEST_BYTES } from '../../base/hasher.ts'
import { isSha256 } from '../../base/hex.ts'
import { LIMITS } from '../../base/limits.ts'
import type { RecordStrategy } from '../../base/strategies.ts'
import { compareUtf8, utf8 } from '../../base/utf8.ts'
import { MAGIC } from '../magic.ts'
import {
  type ArrayField,
  arrayLength,
  FIELDS,
  PREFIX_BYTES,
  recordHeaderBytes,
  type TensorEntry,
} from './format.ts'

export interface RecordDeltaOptions {
  readonly strategy: RecordStrategy
  /** Share of a tensor's elements that int4 keeps as float16, in (0, 1); 0.01 if absent. */
  readonly outlierFraction?: number | undefined
  /** Share of a tensor's elements that sparse drops, in [0, 1); 0.9 if absent. */
  readonly sparsity?: number | undefined
  /** The hash of the parent's values: 64 lower-case hex digits. */
  readonly parentHash: string
  /** In the order of the array records. */
  readonly tensors: readonly PlanTensor[]
}

export interface PlanTensor {
  readonly name: string
  readonly shape: readonly number[]
  /** Elements: the product of `shape`. */
  readonly count: number
  /** The fine-tune's dtype, which the file names. Null leaves it out, and stands for a floating-point dtype. */
  readonly dtype: Dtype | null
  /** False if the fine-tune has the parent's bytes. Used only for dtypes that are not floating point. */
  readonly changed: boolean
}

interface PlannedArray {
  readonly field: ArrayField
  /** Elements. */
  readonly length: number
  /** Bytes of data, without the record header. */
  readonly bytes: number
}

/** One tensor of a delta to be written; its own strategy may differ from the delta's. */
export interface PlannedTensor {
  readonly entry: TensorEntry
  /** Elements of largest magnitude to keep: outliers (int4) or values (sparse); 0 for quantized. */
  readonly kept: number
  /** In the order in which they are written. */
  readonly arrays: readonly PlannedArray[]
}

/** A `.wdelta` of version 1 before its values are known: its prefix, its sizes and the order of its records. */
export interface RecordDeltaPlan {
  readonly strategy: RecordStrategy
  /** The JSON header, as in the file. */
  readonly header: Uint8Array
  /** In record order. */
  readonly tensors: readonly PlannedTensor[]
  /** Bytes of the whole file, checksum included. */
  readonly size: number
}

/**
 * Plans all of a delta that does not depend on values: the strategy and the array lengths of each tensor, the header as the reference writes
 * it (in name order, `tuned_dtype` added last), and the size of the file. A tensor that the strategy cannot hold becomes sparse with
 * sparsity 0: one of which int4 would make only outliers (a single element, for instance), an empty one, and, without any index, an
 * unchanged one that is not floating point.
 * Source: deltatensors 0.2.0 `io.py` (`_tensor_header_entry`), `compress.py`, `compress_int4.py`.
 * @throws CodecError of kind `encode`: `outlier-fraction`, `sparsity`, `parent-hash`, `no-tensors`,
 * `integer-changed`, `header-length`
 */
export function planRecordDelta(options: RecordDeltaOptions): RecordDeltaPlan {
  const { strategy, parentHash } = options
  const settled = checkOptions(options)
  let size = DIGEST_BYTES
  const tensors = options.tensors.map(tensor => {
    const planned = settleTensor(tensor, settled)
    const nameBytes = utf8(tensor.name).length
    for (const { field, bytes } of planned.arrays)
      size += recordHeaderBytes(nameBytes, field) + bytes
    return planned
  })
  const header = utf8(headerJson(parentHash, strategy, tensors))
  if (header.length > LIMITS.headerBytes) {
    const came = `got ${header.length} for ${tensors.length} tensors`
    refuse('header-length', `expected a header of at most ${LIMITS.headerBytes} bytes, ${came}`)
  }
  return { strategy, header, tensors, size: size + PREFIX_BYTES + header.length }
}

/** The bytes before the first array record: magic, version, header length, header. */
export function recordDeltaPrefix({ header }: RecordDeltaPlan): Uint8Array {
  const bytes = new Uint8Array(PREFIX_BYTES + header.length)
  bytes.set(MAGIC)
  const view = new DataView(bytes.buffer)
  view.setUint32(MAGIC.length, 1, true)
  view.setUint32(MAGIC.length + 4, header.length, true)
  bytes.set(header, PREFIX_BYTES)
  return bytes
}

/** The bytes in front of the data of an array of `length` elements. */
export function recordHeader(name: string, field: ArrayField, length: number): Uint8Array {
  const nameBytes = utf8(name)
  const bytes = new Uint8Array(recordHeaderBytes(nameBytes.length, field))
  const view = new DataView(bytes.buffer)
  let at = 0
  for (const text of [nameBytes, utf8(field.name), utf8(field.dtype)]) {
    view.setUint32(at, text.length, true)
    bytes.set(text, at + 4)
    at += 4 + text.length
  }
  view.setUint32(at, 1, true)
  view.setBigUint64(at + 4, BigInt(length), true)
  view.setBigUint64(at + 12, BigInt(length * field.itemBytes), true)
  return bytes
}

interface SettledOptions {
  readonly strategy: RecordStrategy
  readonly outlierFraction: number
  readonly sparsity: number
}

function checkOptions(options: RecordDeltaOptions): SettledOptions {
  const { strategy, outlierFraction = 0.01, sparsity = 0.9, parentHash, tensors } = options
  if (!(outlierFraction > 0 && outlierFraction < 1)) {
    refuse('outlier-fraction', `expected a fraction above 0 and below 1, got ${outlierFraction}`)
  }
  if (!(sparsity >= 0 && sparsity < 1)) {
    refuse('sparsity', `expected a sparsity of at least 0 and below 1, got ${sparsity}`)
  }
  if (!isSha256(parentHash)) {
    refuse('parent-hash', `expected 64 lower-case hex digits, got ${JSON.stringify(parentHash)}`)
  }
  if (tensors.length === 0) refuse('no-tensors', 'a delta needs at least one tensor')
  return { strategy, outlierFraction, sparsity }
}

function settleTensor(tensor: PlanTensor, settled: SettledOptions): PlannedTensor {
  const { name, shape, count, dtype } = tensor
  const base = { name, shape, count, tunedDtype: dtype }
  if (dtype !== null && !isFloat(dtype)) {
    if (tensor.changed) {
      const why = 'version 1 deltas add float32 values; strategy lossless can hold it'
      refuse('integer-changed', `${namedTensor(name)} of dtype ${dtype} changed: ${why}`)
    }
    return withArrays({ ...base, strategy: 'sparse', sparsity: 0 }, 0)
  }
  if (settled.strategy === 'sparse') {
    const { sparsity } = settled
    return withArrays({ ...base, strategy: 'sparse', sparsity }, keptElements(count, 1 - sparsity))
  }
  if (settled.strategy === 'quantized' && count > 0) {
    const columns = shape.length > 1 ? count / shape[0]! : count
    return withArrays({ ...base, strategy: 'quantized', columns }, 0)
  }
  const { outlierFraction } = settled
  const outliers = keptElements(count, outlierFraction)
  if (settled.strategy === 'int4' && outliers < count) {
    return withArrays({ ...base, strategy: 'int4', outlierFraction, outliers }, outliers)
  }
  return withArrays({ ...base, strategy: 'sparse', sparsity: 0 }, count)
}

/** The reference's count, in doubles as in Python; 0 for an empty tensor. */
function keptElements(count: number, fraction: number): number {
  return Math.min(count, Math.max(1, Math.trunc(count * fraction)))
}

function withArrays(entry: TensorEntry, kept: number): PlannedTensor {
  const arrays = FIELDS[entry.strategy].map(field => {
    const length = arrayLength(entry, field) ?? kept
    return { field, length, bytes: length * field.itemBytes }
  })
  return { entry, kept, arrays }
}

function headerJson(
  parentHash: string,
  strategy: RecordStrategy,
  tensors: readonly PlannedTensor[],
): string {
  const entries = tensors
    .map(({ entry }) => entry)
    .sort((a, b) => compareUtf8(a.name, b.name))
    .map(entry => `${jsonString(entry.name)}:${entryJson(entry)}`)
  return `{"parent_hash":"${parentHash}","strategy":"${strategy}","tensors":{${entries.join()}}}`
}

function entryJson(entry: TensorEntry): string {
  const parts = [
    `"strategy":"${entry.strategy}"`,
    `"shape":[${entry.shape.join()}]`,
    '"dtype":"float32"',
    ...strategyJson(entry),
    ...FIELDS[entry.strategy].map(({ name }) => `"${name}":{"_ref":"${name}"}`),
  ]
  if (entry.tunedDtype !== null) parts.push(`"tuned_dtype":"${entry.tunedDtype}"`)
  return `{${parts.join()}}`
}

function strategyJson(entry: TensorEntry): string[] {
  switch (entry.strategy) {
    case 'sparse':
      return [`"sparsity":${jsonFloat(entry.sparsity)}`]
    case 'quantized':
      return [`"n_elements":${entry.count}`, `"n_cols":${entry.columns}`]
    case 'int4':
      return [
        `"outlier_fraction":${jsonFloat(entry.outlierFraction)}`,
        `"n_elements":${entry.count}`,
        `"n_outliers":${entry.outliers}`,
      ]
  }
}

/** A string as Python's `json.dumps` writes it: everything outside printable ASCII escaped. */
function jsonString(text: string): string {
  return JSON.stringify(text).replace(
    /[^ -~]/g,
    unit => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

/** A number in [0, 1) as Python's `repr` writes a float: the fewest digits, and below 0.0001 an exponent of two digits. */
function jsonFloat(value: number): string {
  if (value === 0) return '0.0'
  if (value >= 1e-4) return String(value)
  return value.toExponential().replace(/-(\d)$/, '-0$1')
}

function refuse(rule: string, message: string): never {
  throw new CodecError('encode', rule, message)
}
