import { DTYPE_BITS } from '../../../src/codec/base/dtypes.ts'
import type { Random } from '../../support/random.ts'
import { headerOf, type KnownModel, type KnownTensor, WEIGHTS } from './known-model.ts'

/** A form that a server must answer with a problem, or with a model that it gives back. */
export interface HostileForm {
  readonly kind: string
  readonly path: '/models' | '/deltas'
  readonly fields: Readonly<Record<string, string>>
  readonly files: readonly {
    readonly field: string
    readonly name: string
    readonly bytes: Uint8Array
  }[]
  /** Bytes of the model that the form describes, as far as a server has to believe it. */
  readonly logicalBytes: number
  /** Tensors that it describes. */
  readonly tensors: number
}

/** A form as a maker leaves it: what is missing is the same for most. */
export type MadeForm = Partial<HostileForm> & Pick<HostileForm, 'files'>

/** Makers of forms by their kind. */
export type Makers = Readonly<Record<string, () => MadeForm>>

/** Numbers that a length, a count, an offset or a dimension should not be. */
const NUMBERS: readonly bigint[] = [
  0n,
  1n,
  -1n,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 40n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 53n + 1n,
  2n ** 63n,
  2n ** 64n - 1n,
]
/** As they stand in JSON; some are none there. */
export const JSON_NUMBERS = [
  ...NUMBERS.map(String),
  '1e999',
  '-0',
  '2.5',
  '1e3',
  '00',
  '9'.repeat(400),
  '0x10',
]

/** What is drawn for one form: numbers, bytes and texts that should not be, and forms around them. */
export class Draws {
  readonly random: Random
  readonly base: KnownModel

  constructor(random: Random, base: KnownModel) {
    this.random = random
    this.base = base
  }

  /** The fields that name the known model as the parent. */
  get named(): { parent: string } {
    return { parent: this.base.id }
  }

  /** A form with one delta, which names its parent most often. */
  delta(bytes: Uint8Array, form: Partial<HostileForm> = {}) {
    const fields = this.random.chance(70) ? this.named : {}
    return {
      fields: fields as Record<string, string>,
      ...form,
      files: [{ field: 'delta', name: 'd.wdelta', bytes }],
    }
  }

  /** A form with one safetensors file. */
  files(bytes: Uint8Array, form: Partial<HostileForm> = {}) {
    return { ...this.form([{ name: WEIGHTS, bytes }]), logicalBytes: bytes.length, ...form }
  }

  /** A form of files, with a strategy or without. */
  form(files: readonly { name: string; bytes: Uint8Array }[]) {
    const strategy = this.random.pick(['none', 'lossless', 'int4', 'sparse', 'quantized', 'whole'])
    const fields: Record<string, string> = strategy === 'none' ? {} : { ...this.named, strategy }
    return {
      path: '/models' as const,
      fields,
      files: files.map(file => ({ field: 'file', ...file })),
    }
  }

  /** A number that a length, a count, an offset or a dimension should not be. */
  number(): bigint {
    return this.random.pick(NUMBERS)
  }

  /** Does a change once to `most` times. */
  times(most: number, change: () => void): void {
    for (let left = 1 + this.random.below(most); left > 0; left--) change()
  }

  /** Some bits, or a run of bytes, are others. */
  flipped(bytes: Uint8Array): Uint8Array {
    const changed = new Uint8Array(bytes)
    if (changed.length === 0) return changed
    this.times(3, () => {
      const at = this.random.below(changed.length)
      if (this.random.chance(70)) changed[at]! ^= 1 << this.random.below(8)
      else changed.set(this.random.bytes(Math.min(8, changed.length - at)), at)
    })
    return changed
  }

  /** The known model with a few bytes changed. */
  tuned(): KnownTensor[] {
    return this.base.tensors.map(tensor => {
      const bytes = new Uint8Array(tensor.bytes)
      for (let i = this.random.below(20); i > 0 && bytes.length > 0; i--) {
        bytes[this.random.below(bytes.length / 2) * 2]! ^= 1 << this.random.below(8)
      }
      return { ...tensor, bytes }
    })
  }

  /** A header of a safetensors file that is wrong in one way or another. */
  header(): string {
    const header = headerOf(this.base.tensors)
    return this.random.pick<() => string>([
      () =>
        header.replace(/\d+(?=[,\]])/g, number =>
          this.random.chance(8) ? this.random.pick(JSON_NUMBERS) : number,
        ),
      () => this.json(header),
      () => header.replace('"w"', '"bias"'),
      () =>
        header.replace(
          '"w"',
          JSON.stringify(
            this.random.pick(['', 'x'.repeat(2000), '__metadata__', '__proto__', '\u0000']),
          ),
        ),
      () => header.replace(/data_offsets":\[\d+/g, 'data_offsets":[0'),
      () => header.replaceAll('BF16', this.random.pick(Object.keys(DTYPE_BITS))),
      () =>
        `{"__metadata__":{${Array.from({ length: this.random.below(60_000) }, (_, i) => `"${i}":"\\u0041"`)}},${header.slice(1)}`,
      () => Buffer.from(this.flipped(Buffer.from(header))).toString('latin1'),
    ])()
  }

  /** JSON that is deep, long, doubled, cut or no JSON at all. */
  json(json: string): string {
    const depth = 1 + this.random.below(100_000)
    const long = this.random.below(500_000)
    return this.random.pick([
      '['.repeat(depth),
      `{"a":`.repeat(depth),
      `{"x":${'['.repeat(depth)}${']'.repeat(depth)},${json.slice(1)}`,
      `{"x":"${'\\n'.repeat(long)}",${json.slice(1)}`,
      `{"x":[${'0,'.repeat(long)}0],${json.slice(1)}`,
      `{"${'x'.repeat(long)}":1,${json.slice(1)}`,
      `{${Array.from({ length: long / 20 }, (_, i) => `"${i}":${i}`)},${json.slice(1)}`,
      json.slice(0, this.random.below(json.length)),
      `${json}${' '.repeat(long)}x`,
      `${json.slice(0, -1)},${json.slice(1)}`,
      Buffer.from(this.flipped(Buffer.from(json))).toString('latin1'),
    ])
  }
}
