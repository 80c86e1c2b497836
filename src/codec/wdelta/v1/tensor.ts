import { namedTensor } from '../../base/errors.ts'
import type { ByteRange } from '../../base/ranges.ts'
import type { RecordTensor } from '../delta-index.ts'
import { refuse } from '../refuse.ts'
import {
  type Aligner,
  type ArrayCheck,
  IndexCheck,
  NibbleCheck,
  ScaleCheck,
  SignCheck,
  ValueCheck,
} from './checks.ts'
import {
  type ArrayField,
  arrayLength,
  FIELDS,
  recordHeaderBytes,
  type SparseEntry,
  type TensorEntry,
} from './format.ts'

/**
 * The arrays of one tensor, whose records come in any order: which have come, how long each must be, and what their data showed.
 */
export class TensorArrays {
  readonly entry: TensorEntry
  readonly #ranges = new Map<string, ByteRange>()
  #indices: IndexCheck | null = null
  #values: ValueCheck | null = null
  #scale: ScaleCheck | null = null
  #zeroPoint: ScaleCheck | null = null
  #nibbles: NibbleCheck | null = null

  constructor(entry: TensorEntry) {
    this.entry = entry
  }

  /** The field that a record names. @throws CodecError `array-field`, `array-duplicate` */
  field(name: string, offset: number): ArrayField {
    const fields = FIELDS[this.entry.strategy]
    const field = fields.find(candidate => candidate.name === name)
    if (!field) {
      const expected = fields.map(candidate => candidate.name).join(', ')
      const came = `got ${JSON.stringify(name)}`
      refuse('array-field', `${this.#label()}: expected an array of ${expected}, ${came}`, offset)
    }
    if (this.#ranges.has(name)) {
      refuse('array-duplicate', `${this.#label(field)}: a second array of this name`, offset)
    }
    return field
  }

  /**
   * Takes the length of an array in elements; its data begins at byte `start` of the file.
   * @throws CodecError `<field>-length` (as `outlier-idx-length`) if it is not what the header or, in a sparse tensor,
   * the other array says; `too-many-indices`
   */
  begin(field: ArrayField, length: number, start: number, aligner: Aligner): ArrayCheck {
    const expected = arrayLength(this.entry, field) ?? this.#sparseLength(field, length, start)
    if (length !== expected) {
      const came = `expected ${expected} elements, got ${length}`
      refuse(rule(field, 'length'), `${this.#label(field)}: ${came}`, start)
    }
    this.#ranges.set(field.name, { start, end: start + length * field.itemBytes })
    return this.#check(field, aligner)
  }

  /** Least bytes of the records that have not come yet. */
  missingBytes(nameBytes: number): number {
    let bytes = 0
    for (const field of this.#missing()) {
      const data = (arrayLength(this.entry, field) ?? 0) * field.itemBytes
      bytes += recordHeaderBytes(nameBytes, field) + data
    }
    return bytes
  }

  /** The tensor's entry of the index, once all data has come. @throws CodecError `array-missing` */
  finish(): RecordTensor {
    const [missing] = this.#missing()
    if (missing) refuse('array-missing', `${this.#label(missing)}: the file has no such array`)
    const { entry } = this
    switch (entry.strategy) {
      case 'quantized':
        return {
          ...entry,
          zero: this.#scale!.zero,
          nonFinite: 0,
          scales: this.#range('scales'),
          packedSigns: this.#range('packed_signs'),
        }
      case 'sparse': {
        const indices = this.#range('indices')
        return {
          ...entry,
          zero: this.#values!.zero,
          nonFinite: this.#values!.nonFinite,
          kept: (indices.end - indices.start) / 8,
          indices,
          values: this.#range('values'),
          ...this.#indices!.ranks(),
        }
      }
      case 'int4':
        return {
          ...entry,
          zero: this.#values!.zero && (this.#nibbles!.seen & this.#nonZeroNibbles()!) === 0,
          nonFinite: this.#values!.nonFinite,
          scale: this.#scale!.value,
          zeroPoint: this.#zeroPoint!.value,
          outlierIdx: this.#range('outlier_idx'),
          outlierVals: this.#range('outlier_vals'),
          packed: this.#range('packed'),
          ...this.#indices!.ranks(),
        }
    }
  }

  #missing(): ArrayField[] {
    return FIELDS[this.entry.strategy].filter(field => !this.#ranges.has(field.name))
  }

  #range(name: string): ByteRange {
    return this.#ranges.get(name)!
  }

  /** The length that a sparse tensor's array must have: that of the other array, and at most that of the tensor. */
  #sparseLength(field: ArrayField, length: number, start: number): number {
    const { count } = this.entry as SparseEntry
    const [other] = FIELDS.sparse.filter(
      ({ name }) => name !== field.name && this.#ranges.has(name),
    )
    if (other) {
      const range = this.#range(other.name)
      return (range.end - range.start) / other.itemBytes
    }
    if (length > count) {
      const came = `got ${length} of a tensor of ${count} elements`
      refuse('too-many-indices', `${this.#label(field)}: ${came}`, start)
    }
    return length
  }

  #check(field: ArrayField, aligner: Aligner): ArrayCheck {
    const label = this.#label(field)
    const { count } = this.entry
    switch (field.name) {
      case 'packed_signs':
        return new SignCheck(label, count)
      case 'packed':
        this.#nibbles = new NibbleCheck(label, this.#nibbleCount(), this.#nonZeroNibbles())
        return this.#nibbles
      case 'outlier_idx':
      case 'indices':
        this.#indices = new IndexCheck(label, count)
        return aligner.feed(this.#indices, field.itemBytes)
      case 'outlier_vals':
      case 'values':
        this.#values = new ValueCheck(field.itemBytes === 2 ? 2 : 4)
        return aligner.feed(this.#values, field.itemBytes)
      case 'zero_point':
        this.#zeroPoint = new ScaleCheck(label, rule(field, 'value'), true)
        return aligner.feed(this.#zeroPoint, field.itemBytes)
      default:
        this.#scale = new ScaleCheck(label, rule(field, 'value'), false)
        return aligner.feed(this.#scale, field.itemBytes)
    }
  }

  #nibbleCount(): number {
    return this.entry.strategy === 'int4' ? this.entry.count - this.entry.outliers : 0
  }

  /** The nibbles that stand for something other than +0 or -0, as a set of bits; null until both scalars have come. */
  #nonZeroNibbles(): number | null {
    if (!this.#scale || !this.#zeroPoint) return null
    const range = Math.fround(this.#scale.value * 15)
    const zeroPoint = Math.fround(this.#zeroPoint.value)
    let set = 0
    for (let q = 0; q < 16; q++) {
      const product = Math.fround(Math.fround(q / 15) * range)
      if (Math.fround(product + zeroPoint) !== 0) set |= 1 << q
    }
    return set
  }

  #label(field?: ArrayField): string {
    return field
      ? `${namedTensor(this.entry.name)}, array ${field.name}`
      : namedTensor(this.entry.name)
  }
}

function rule(field: ArrayField, fault: 'length' | 'value'): string {
  return `${field.name.replace('_', '-')}-${fault}`
}
