import { type Dtype, elementCount, isDtype } from '../../base/dtypes.ts'
import { namedTensor } from '../../base/errors.ts'
import { isSha256 } from '../../base/hex.ts'
import { parseJsonSteps } from '../../base/json.ts'
import {
  isCount,
  type JsonMember,
  type JsonMembers,
  type JsonValue,
} from '../../base/json-values.ts'
import { LIMITS } from '../../base/limits.ts'
import type { Steps } from '../../base/steps.ts'
import { RECORD_STRATEGIES, type RecordStrategy } from '../../base/strategies.ts'
import { checkName } from '../../base/utf8.ts'
import { refuse } from '../refuse.ts'
import { FIELDS, type RecordDeltaHeader, type TensorEntry } from './format.ts'

/** UTF-16 units of the longest string that an unknown key may hold. */
const EXTRA_TEXT = 256

/**
 * Parses the JSON header of a record delta, `offset` bytes into its file, in steps, and checks all that it shows by itself. Unknown keys are
 * ignored, as in the reference, but may hold only numbers, booleans, null, and strings of up to 256 characters: more would be a payload
 * that nobody looks at.
 * Source: deltatensors 0.2.0 `format.py`, `io.py` (`_tensor_header_entry`).
 * @throws CodecError of kind `delta`: what `parseJson` throws; `header-object`, `parent-hash`, `strategy`,
 * `strategy-unknown`, `tensors`, `no-tensors`, `name`, `entry`, `shape`, `output-dtype`,
 * `tuned-dtype`, `sparsity`, `outlier-fraction`, `element-count`, `column-count`, `outlier-count`, `array-ref`,
 * `extra-key`
 */
export function* parseRecordDeltaHeaderSteps(
  json: Uint8Array,
  offset: number,
): Steps<RecordDeltaHeader> {
  const entries: TensorEntry[] = []
  const take = ({ key, value, keyOffset }: JsonMember) => {
    entries.push(readEntry(key, value, keyOffset))
  }
  const root = yield* parseJsonSteps(json, offset, 'delta', ['tensors'], take)
  if (root.kind !== 'object') {
    refuse('header-object', `the header: expected an object, got ${describe(root)}`, root.offset)
  }
  const header = new Fields('the header', root)
  const parentHash = header.text('parent_hash', 'parent-hash')
  if (!isSha256(parentHash)) {
    header.fail('parent_hash', 'parent-hash', '64 lower-case hex digits')
  }
  const strategy = readStrategy(header)
  const tensors = header.get('tensors')
  if (tensors?.kind !== 'object') return header.fail('tensors', 'tensors', 'an object')
  header.checkExtra()
  if (entries.length === 0) refuse('no-tensors', 'the header names no tensor', tensors.offset)
  return { parentHash, strategy, tensors: entries }
}

/** The members of one object of the header. Notes which were asked for. */
class Fields {
  readonly #at: string
  readonly #offset: number
  readonly #members: JsonMembers
  readonly #known = new Set<string>()

  constructor(at: string, { offset, members }: { offset: number; members: JsonMembers }) {
    this.#at = at
    this.#offset = offset
    this.#members = members
  }

  get(key: string): JsonValue | undefined {
    this.#known.add(key)
    return this.#members.get(key)
  }

  text(key: string, rule: string): string {
    const value = this.get(key)
    return value?.kind === 'string' ? value.value : this.fail(key, rule, 'a string')
  }

  number(key: string, rule: string): number {
    const value = this.get(key)
    return value?.kind === 'number' ? value.value : this.fail(key, rule, 'a number')
  }

  /** An integer from `least` to `most`, written as one: `2`, not `2.0`. */
  count(key: string, rule: string, least: number, most: number): number {
    const value = this.get(key)
    if (isCount(value) && value.value >= least && value.value <= most) return value.value
    const expected =
      least === most ? `${least}, as the shape says` : `an integer from ${least} to ${most}`
    return this.fail(key, rule, expected)
  }

  /** Refuses the value of `key`, or that it is missing. */
  fail(key: string, rule: string, expected: string): never {
    const value = this.get(key)
    const came = value ? describe(value) : 'nothing'
    const message = `${this.#at}, ${key}: expected ${expected}, got ${came}`
    return refuse(rule, message, value?.offset ?? this.#offset)
  }

  /** Refuses members that were not asked for and could hide a payload. */
  checkExtra(): void {
    for (const [key, value] of this.#members) {
      if (this.#known.has(key)) continue
      const scalar = value.kind !== 'object' && value.kind !== 'array'
      if (scalar && !(value.kind === 'string' && value.value.length > EXTRA_TEXT)) continue
      this.fail(
        key,
        'extra-key',
        `an unknown key to hold a scalar of at most ${EXTRA_TEXT} characters`,
      )
    }
  }
}

function readStrategy(fields: Fields): RecordStrategy {
  const text = fields.text('strategy', 'strategy')
  const strategy = RECORD_STRATEGIES.find(known => known === text)
  if (strategy) return strategy
  const expected = `${RECORD_STRATEGIES.slice(0, -1).join(', ')} or ${RECORD_STRATEGIES.at(-1)}`
  return fields.fail('strategy', 'strategy-unknown', expected)
}

function readEntry(name: string, value: JsonValue, keyOffset: number): TensorEntry {
  checkName('delta', name, keyOffset)
  if (value.kind !== 'object') {
    const message = `${namedTensor(name)}: expected an object, got ${describe(value)}`
    refuse('entry', message, value.offset)
  }
  const fields = new Fields(namedTensor(name), value)
  const strategy = readStrategy(fields)
  const shape = readShape(fields)
  const count = elementCount(shape)
  if (fields.text('dtype', 'output-dtype') !== 'float32') {
    fields.fail('dtype', 'output-dtype', '"float32"')
  }
  const base = { name, shape, count, tunedDtype: readTunedDtype(fields) }
  const entry = readStrategyFields(fields, strategy, base)
  for (const field of FIELDS[strategy]) checkReference(fields, field.name)
  fields.checkExtra()
  return entry
}

function readShape(fields: Fields): number[] {
  const value = fields.get('shape')
  if (value?.kind !== 'array') return fields.fail('shape', 'shape', 'a list')
  if (value.items.length > LIMITS.rank) {
    fields.fail('shape', 'shape', `at most ${LIMITS.rank} dimensions`)
  }
  let elements = 1
  return value.items.map(item => {
    if (!isCount(item) || item.value > LIMITS.dimension) {
      return fields.fail('shape', 'shape', `integers from 0 to ${LIMITS.dimension}`)
    }
    elements *= item.value
    if (elements > LIMITS.elements) {
      fields.fail('shape', 'shape', `at most ${LIMITS.elements} elements`)
    }
    return item.value
  })
}

function readTunedDtype(fields: Fields): Dtype | null {
  if (fields.get('tuned_dtype') === undefined) return null
  const text = fields.text('tuned_dtype', 'tuned-dtype')
  return isDtype(text) ? text : fields.fail('tuned_dtype', 'tuned-dtype', 'a safetensors dtype')
}

function readStrategyFields(
  fields: Fields,
  strategy: RecordStrategy,
  base: { name: string; shape: number[]; count: number; tunedDtype: Dtype | null },
): TensorEntry {
  const { count, shape } = base
  if (strategy === 'sparse') {
    const sparsity = fields.number('sparsity', 'sparsity')
    if (sparsity >= 0 && sparsity < 1) return { ...base, strategy, sparsity }
    return fields.fail('sparsity', 'sparsity', 'at least 0 and below 1')
  }
  if (strategy === 'quantized' && count === 0) {
    fields.fail('n_elements', 'element-count', 'a tensor that is not empty')
  }
  fields.count('n_elements', 'element-count', count, count)
  if (strategy === 'quantized') {
    const columns = shape.length > 1 ? elementCount(shape.slice(1)) : count
    return { ...base, strategy, columns: fields.count('n_cols', 'column-count', columns, columns) }
  }
  const outlierFraction = fields.number('outlier_fraction', 'outlier-fraction')
  const outliers = fields.count('n_outliers', 'outlier-count', 1, count - 1)
  return { ...base, strategy, outlierFraction, outliers }
}

/** Checks that an array's member of the header is `{"_ref": <its own name>}` and nothing else. */
function checkReference(fields: Fields, name: string): void {
  const value = fields.get(name)
  const target = value?.kind === 'object' ? value.members.get('_ref') : undefined
  const alone = value?.kind === 'object' && value.members.size === 1
  if (alone && target?.kind === 'string' && target.value === name) return
  fields.fail(name, 'array-ref', `{"_ref":"${name}"}`)
}

function describe(value: JsonValue): string {
  switch (value.kind) {
    case 'string':
      return JSON.stringify(value.value.slice(0, 80))
    case 'number':
      return value.text.slice(0, 40)
    case 'boolean':
      return String(value.value)
    case 'null':
      return 'null'
    case 'array':
      return value.items.every(item => item.kind === 'number')
        ? `[${value.items.slice(0, 20).map(describe)}]`
        : 'a list'
    case 'object':
      return `an object with keys ${JSON.stringify([...value.members.keys()].slice(0, 5))}`
  }
}
