import { createHash } from 'node:crypto'
import { constants, zstdCompressSync } from 'node:zlib'
import { DTYPE_BITS, type Dtype } from '../../src/codec/base/dtypes.ts'
import { EXPANSION, FRAME_BYTES, LIMITS } from '../../src/codec/base/limits.ts'
import { ENCODINGS, encodeFrame } from '../../src/codec/frames/frame-encodings.ts'
import { identityBytes } from '../../src/codec/safetensors/identity.ts'
import { threadKernels } from '../../src/workers/kernels.ts'
import { Random } from '../support/random.ts'
import {
  type Record as ArrayRecord,
  deltaFile,
  f16s,
  f32s,
  i64s,
  record,
  sha256,
  u64,
} from '../support/wdelta-files.ts'
import {
  COPY,
  type RawDelta,
  type RawSource,
  rawIndex,
  resealed,
  sealedV2,
  xxh64,
  zstd,
} from '../support/wdelta-v2-files.ts'

/** A tensor of a model that the generator knows. */
export interface KnownTensor {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly bytes: Uint8Array
}

/** A model that is published: what a delta must name to be made against it. */
export interface KnownModel {
  readonly id: string
  readonly parentHash: string
  readonly tensors: readonly KnownTensor[]
}

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
const JSON_NUMBERS = [
  ...NUMBERS.map(String),
  '1e999',
  '-0',
  '2.5',
  '1e3',
  '00',
  '9'.repeat(400),
  '0x10',
]
/** Longest file. */
const MAX_BYTES = 2_000_000
const WEIGHTS = 'model.safetensors'
const SOUND_DELTAS = 6
const ZEROS = new Uint8Array(FRAME_BYTES)

/** The tensors of the model that all deltas are made against: small ones of several dtypes, an empty one, and one of two frames. */
export function knownTensors(): KnownTensor[] {
  const random = new Random(7)
  const tensor = (name: string, dtype: Dtype, shape: readonly number[]): KnownTensor => {
    const count = shape.reduce((product, dimension) => product * dimension, 1)
    const bytes = random.bytes((count * DTYPE_BITS[dtype]) / 8)
    // No infinities and no NaN: deltas that are sound should be accepted.
    if (dtype === 'BF16' || dtype === 'F16')
      for (let i = 1; i < bytes.length; i += 2) bytes[i]! &= 0x3b
    if (dtype === 'F32') for (let i = 3; i < bytes.length; i += 4) bytes[i]! &= 0x3b
    return { name, dtype, shape, bytes }
  }
  return [
    tensor('big', 'BF16', [1100, 1000]),
    tensor('bias', 'F32', [10]),
    tensor('empty', 'F32', [0, 3]),
    tensor('ids', 'I64', [4]),
    tensor('scales', 'U8', [100]),
    tensor('w', 'BF16', [64, 32]),
  ]
}

/** A safetensors file of these tensors, in this order. */
export function safetensors(tensors: readonly KnownTensor[]): Uint8Array {
  return Buffer.concat([withLength(headerOf(tensors)), ...tensors.map(({ bytes }) => bytes)])
}

function headerOf(
  tensors: readonly Pick<KnownTensor, 'name' | 'dtype' | 'shape' | 'bytes'>[],
): string {
  let at = 0
  const members = tensors.map(({ name, dtype, shape, bytes }) => {
    const begin = at
    at += bytes.length
    return `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape}],"data_offsets":[${begin},${at}]}`
  })
  return padded(`{${members}}`)
}

function padded(json: string): string {
  return json.padEnd(Math.ceil(json.length / 8) * 8)
}

function withLength(json: string | Uint8Array, length?: bigint): Uint8Array {
  const bytes = Buffer.from(json as string)
  return Buffer.concat([u64(length ?? bytes.length), bytes])
}

/** Makes hostile forms, the same for the same seed and number. */
export class HostileFiles {
  readonly #seed: number
  readonly #base: KnownModel
  readonly #mostTensors: number
  readonly #identity: Uint8Array
  readonly #sound = new Map<number, RawDelta>()
  #random: Random

  /** `mostTensors`: of those that one file describes. */
  constructor(seed: number, base: KnownModel, mostTensors: number) {
    this.#mostTensors = mostTensors
    this.#seed = seed
    this.#base = base
    this.#random = new Random(seed)
    const hash = createHash('sha256')
    const digested = base.tensors.map(tensor => ({ ...tensor, digest: sha256(tensor.bytes) }))
    for (const bytes of identityBytes(digested)) hash.update(bytes)
    this.#identity = hash.digest()
  }

  /** The form of a number: all kinds in turn. */
  make(i: number): HostileForm {
    this.#random = new Random(this.#seed + i * 7919)
    const makers = Object.entries(this.#makers)
    const [kind, make] = makers[i % makers.length]!
    const made = make()
    const logicalBytes = Math.min(made.logicalBytes ?? 0, EXPANSION.floorBytes * 2)
    return { path: '/deltas', fields: {}, tensors: 6, ...made, kind, logicalBytes }
  }

  readonly #makers: Record<string, () => Partial<HostileForm> & Pick<HostileForm, 'files'>> = {
    'v2, sound': () => this.#delta(this.#sealed(this.#soundDelta()), { logicalBytes: 3e6 }),
    'v2, a number of the index': () => {
      const delta = this.#soundDelta()
      const { bytes, numbers } = rawIndex(delta)
      const index = Buffer.from(bytes)
      this.#times(2, () => {
        const { at, width } = this.#random.pick(numbers)
        Buffer.from(u64(this.#number())).copy(index, at, 0, width)
      })
      return this.#delta(sealedV2(delta.records, index), { logicalBytes: 3e6 })
    },
    'v2, bytes of the index': () => {
      const delta = this.#soundDelta()
      return this.#delta(sealedV2(delta.records, this.#flipped(rawIndex(delta).bytes)), {
        logicalBytes: 3e6,
      })
    },
    'v2, cut or turned': () => {
      const file = Buffer.from(this.#sealed(this.#soundDelta()))
      const changed = this.#random.chance(50)
        ? file.subarray(0, this.#random.below(file.length))
        : this.#flipped(file)
      return this.#delta(this.#random.chance(80) ? resealed(changed) : changed)
    },
    'v2, the tail': () => {
      const delta = this.#soundDelta()
      const file = Buffer.from(this.#sealed(delta))
      const [at, width] = this.#random.pick([
        [64, 8],
        [56, 4],
        [52, 4],
        [48, 8],
        [40, 8],
      ])
      Buffer.from(u64(this.#number())).copy(file, file.length - at!, 0, width)
      return this.#delta(resealed(file))
    },
    'v2, records': () => {
      const delta = this.#soundDelta()
      const at = this.#random.below(delta.records.length)
      const spoilt = this.#random.chance(50)
        ? this.#flipped(delta.records[at]!)
        : this.#random.bytes(1 + this.#random.below(5000))
      const records = delta.records.with(at, spoilt)
      const frames = delta.frames.map(frame =>
        frame.record === at && this.#random.chance(50)
          ? { ...frame, encoding: this.#random.below(ENCODINGS.length) }
          : frame,
      )
      return this.#delta(this.#sealed({ ...delta, records, frames }), { logicalBytes: 3e6 })
    },
    'v2, a record that inflates': () => this.#inflatingRecord(),
    'v2, an index that inflates': () => {
      const size = 2 ** (16 + this.#random.below(11))
      const index = new Uint8Array(size)
      index.set(rawIndex(this.#soundDelta()).bytes.subarray(0, this.#random.below(size)))
      const stored = zstd(index)
      const noise = this.#random.below(MAX_BYTES / 2)
      // Skippable frames make room for more; nothing may stand there.
      const skipped = Buffer.concat([
        Buffer.from([0x50, 0x2a, 0x4d, 0x18]),
        Buffer.from(Uint32Array.of(noise).buffer),
        this.#random.bytes(noise),
      ])
      const all = this.#random.chance(50) ? Buffer.concat([skipped, stored]) : stored
      const inflated = this.#random.chance(50) ? size : Number(this.#number() & 0xffffffffn)
      return this.#delta(sealedV2([], index, { stored: all, inflated }))
    },
    'v2, many frames of one record': () => this.#manyFrames(),
    'v2, many tensors': () => this.#manyTensors(),
    'v2, headers': () => {
      const delta = this.#soundDelta()
      const header = Buffer.from(this.#hostileHeader(), 'latin1')
      const shards = [{ ...delta.shards[0]!, header }]
      return this.#delta(this.#sealed({ ...delta, shards }), { logicalBytes: 3e6 })
    },
    'v2, sources': () => {
      const delta = this.#soundDelta()
      const sources = delta.sources.map(source =>
        this.#random.chance(40) ? this.#source() : source,
      )
      return this.#delta(this.#sealed({ ...delta, sources }), { logicalBytes: 3e6 })
    },
    'v2, another parent': () => {
      const delta = this.#soundDelta()
      const parentHash = this.#random.bytes(32)
      const parentIdentity = this.#random.chance(50) ? this.#random.bytes(32) : delta.parentIdentity
      const file = this.#sealed({ ...delta, parentHash, parentIdentity })
      return this.#delta(file, { fields: this.#random.chance(50) ? {} : this.#named })
    },
    'v1, sound': () =>
      this.#delta(this.#v1File(this.#v1Header(), this.#v1Records()), { fields: this.#named }),
    'v1, another parent': () => {
      const header = this.#v1Header().replace(this.#partHash(), '0'.repeat(64))
      return this.#delta(this.#v1File(header, this.#v1Records()))
    },
    'v1, a number of the header': () => {
      const json = this.#v1Header().replace(/(?<=[:,[])\d+(\.\d+)?/g, number =>
        this.#random.chance(5) ? this.#random.pick(JSON_NUMBERS) : number,
      )
      return this.#delta(this.#v1File(json, this.#v1Records()))
    },
    'v1, JSON': () =>
      this.#delta(this.#v1File(this.#hostileJson(this.#v1Header()), this.#v1Records())),
    'v1, a number of a record': () => {
      const records = this.#v1Records().map(one => {
        if (this.#random.chance(70)) return one
        const change = { ...one, dims: [this.#number()], length: this.#number() }
        return this.#random.chance(50) ? change : { ...one, dims: [this.#number()] }
      })
      return this.#delta(this.#v1File(this.#v1Header(), records))
    },
    'v1, bytes': () => {
      const file = this.#v1File(this.#v1Header(), this.#v1Records())
      const cut = this.#random.chance(30) ? file.subarray(0, this.#random.below(file.length)) : file
      return this.#delta(resealed(this.#flipped(cut)))
    },
    'v1, huge sparse tensors': () => {
      const shape = this.#random.pick([
        [2 ** 32, 2 ** 8],
        [2 ** 20, 2 ** 20],
        [2 ** 31],
        [1100, 1000],
      ])
      const kept = [0, 1, 50_000][this.#random.below(3)]!
      const step = Math.floor(shape.reduce((a, b) => a * b, 1) / (kept + 1))
      const indices = i64s(...Array.from({ length: kept }, (_, i) => i * step))
      const values = new Uint8Array(kept * 4)
      const entry = {
        strategy: 'sparse',
        shape,
        dtype: 'float32',
        sparsity: 0.9,
        indices: { _ref: 'indices' },
        values: { _ref: 'values' },
      }
      const header = {
        parent_hash: this.#base.parentHash,
        strategy: 'sparse',
        tensors: { big: entry },
      }
      const records = [
        record('big', 'indices', 'int64', 8, indices),
        record('big', 'values', 'float32', 4, values),
      ]
      return this.#delta(deltaFile(header, records), { logicalBytes: 3e6 })
    },
    'v1, many tensors': () => {
      const count = this.#random.below(9000)
      const entry = {
        strategy: 'sparse',
        shape: [this.#random.below(3)],
        dtype: 'float32',
        sparsity: 0,
        indices: { _ref: 'indices' },
        values: { _ref: 'values' },
      }
      const tensors = Object.fromEntries(Array.from({ length: count }, (_, i) => [`t${i}`, entry]))
      const header = { parent_hash: this.#base.parentHash, strategy: 'sparse', tensors }
      const records = this.#random.chance(50)
        ? []
        : Object.keys(tensors)
            .slice(0, 2000)
            .flatMap(name => [
              record(name, 'indices', 'int64', 8, i64s()),
              record(name, 'values', 'float32', 4, f32s()),
            ])
      return this.#delta(deltaFile(header, records), { tensors: count })
    },
    'files, sound': () => this.#files(safetensors(this.#tuned())),
    'files, a header': () => {
      const data = this.#tuned().map(({ bytes }) => bytes)
      return this.#files(
        Buffer.concat([withLength(Buffer.from(this.#hostileHeader(), 'latin1')), ...data]),
      )
    },
    'files, a header and its length': () => {
      const header = headerOf(this.#base.tensors)
      const length = BigInt.asUintN(
        64,
        this.#random.pick([this.#number(), BigInt(header.length + 1 - this.#random.below(3))]),
      )
      return this.#files(Buffer.concat([withLength(header, length), this.#random.bytes(5000)]))
    },
    'files, many tensors': () => this.#manyTensorFiles(),
    'files, cut or turned': () => {
      const file = safetensors(this.#tuned())
      const cut = this.#random.chance(50) ? file.subarray(0, this.#random.below(file.length)) : file
      return this.#files(this.#flipped(cut))
    },
    'files, an index beside them': () => {
      const [first, ...rest] = this.#base.tensors
      const map = Object.fromEntries(
        this.#base.tensors.map(({ name }, i) => [
          name,
          i === 0 ? 'a.safetensors' : 'b.safetensors',
        ]),
      )
      const json = this.#hostileJson(
        JSON.stringify({ metadata: { total_size: 1 }, weight_map: map }),
      )
      return this.#form([
        { name: 'a.safetensors', bytes: safetensors([first!]) },
        { name: 'b.safetensors', bytes: safetensors(this.#random.chance(20) ? [first!] : rest) },
        { name: 'model.safetensors.index.json', bytes: Buffer.from(json, 'latin1') },
      ])
    },
  }

  get #named(): { parent: string } {
    return { parent: this.#base.id }
  }

  #delta(bytes: Uint8Array, form: Partial<HostileForm> = {}) {
    const fields = this.#random.chance(70) ? this.#named : {}
    return {
      fields: fields as Record<string, string>,
      ...form,
      files: [{ field: 'delta', name: 'd.wdelta', bytes }],
    }
  }

  #files(bytes: Uint8Array, form: Partial<HostileForm> = {}) {
    return { ...this.#form([{ name: WEIGHTS, bytes }]), logicalBytes: bytes.length, ...form }
  }

  #form(files: readonly { name: string; bytes: Uint8Array }[]) {
    const strategy = this.#random.pick(['none', 'lossless', 'int4', 'sparse', 'quantized', 'whole'])
    const fields: Record<string, string> = strategy === 'none' ? {} : { ...this.#named, strategy }
    return {
      path: '/models' as const,
      fields,
      files: files.map(file => ({ field: 'file', ...file })),
    }
  }

  #sealed(delta: RawDelta): Uint8Array {
    return sealedV2(delta.records, rawIndex(delta).bytes)
  }

  #number(): bigint {
    return this.#random.pick(NUMBERS)
  }

  #times(most: number, change: () => void): void {
    for (let left = 1 + this.#random.below(most); left > 0; left--) change()
  }

  /** Some bits, or a run of bytes, are others. */
  #flipped(bytes: Uint8Array): Uint8Array {
    const changed = new Uint8Array(bytes)
    if (changed.length === 0) return changed
    this.#times(3, () => {
      const at = this.#random.below(changed.length)
      if (this.#random.chance(70)) changed[at]! ^= 1 << this.#random.below(8)
      else changed.set(this.#random.bytes(Math.min(8, changed.length - at)), at)
    })
    return changed
  }

  /** The known model with a few bytes changed. */
  #tuned(): KnownTensor[] {
    return this.#base.tensors.map(tensor => {
      const bytes = new Uint8Array(tensor.bytes)
      for (let i = this.#random.below(20); i > 0 && bytes.length > 0; i--) {
        bytes[this.#random.below(bytes.length / 2) * 2]! ^= 1 << this.#random.below(8)
      }
      return { ...tensor, bytes }
    })
  }

  /** One of a few deltas that are sound: to encode one takes longer than to spoil it. */
  #soundDelta(): RawDelta {
    const which = this.#random.below(SOUND_DELTAS)
    const known = this.#sound.get(which)
    if (known) return known
    const random = this.#random
    this.#random = new Random(this.#seed - 1 - which)
    const delta = this.#encoded()
    this.#random = random
    this.#sound.set(which, delta)
    return delta
  }

  /** A delta that gives {@link #tuned}. */
  #encoded(): RawDelta {
    const tuned = this.#tuned()
    const records: Uint8Array[] = []
    const frames: RawDelta['frames'][number][] = []
    const sources = tuned.map(({ name, dtype, shape, bytes }, i): RawSource | null => {
      // One of them stands alone, so that there is a record whatever came out.
      const parent = name === 'scales' ? null : this.#base.tensors[i]!.bytes
      for (let start = 0; start < bytes.length; start += FRAME_BYTES) {
        const frame = bytes.slice(start, start + FRAME_BYTES)
        const prediction = parent?.slice(start, start + FRAME_BYTES) ?? null
        const { encoding, stored } = encodeFrame(threadKernels(), dtype, frame, prediction)
        const added = () => records.push(Uint8Array.from(stored)) - 1
        frames.push({
          encoding: ENCODINGS.indexOf(encoding),
          record: encoding === 'copy' ? COPY.record : added(),
          checksum: xxh64(frame),
        })
      }
      return parent && { name: null, dtype, shape }
    })
    const header = Buffer.from(headerOf(tuned))
    return {
      parentIdentity: this.#identity,
      parentHash: Buffer.from(this.#base.parentHash, 'hex'),
      shards: [{ path: WEIGHTS, header, sha256: sha256(safetensors(tuned)) }],
      records,
      sources,
      frames,
    }
  }

  /** A frame whose record gives more than the frame, or asks for much to do so. */
  #inflatingRecord() {
    const delta = this.#soundDelta()
    const size = 2 ** (20 + this.#random.below(7))
    const long = zstd(new Uint8Array(size))
    const wide = zstdCompressSync(ZEROS, {
      params: { [constants.ZSTD_c_windowLog]: 27, [constants.ZSTD_c_contentSizeFlag]: 0 },
    })
    const twice = Buffer.concat([zstd(ZEROS), zstd(ZEROS)])
    const records = delta.records.with(0, this.#random.pick([long, wide, twice]))
    const encoding = ENCODINGS.indexOf(
      this.#random.pick(['zstd', 'planes', 'xor', 'sparse', 'coded']),
    )
    const frames = delta.frames.map(frame => (frame.record === 0 ? { ...frame, encoding } : frame))
    return this.#delta(this.#sealed({ ...delta, records, frames }), { logicalBytes: 3e6 })
  }

  /** From a few to millions of frames that share one record, or have none. */
  #manyFrames() {
    const count = 1 + this.#random.below(2 ** this.#random.below(23))
    const bytes = count * FRAME_BYTES
    const header = Buffer.from(
      padded(`{"w":{"dtype":"U8","shape":[${count},${FRAME_BYTES}],"data_offsets":[0,${bytes}]}}`),
    )
    const copies = this.#random.chance(50)
    const encoding = ENCODINGS.indexOf(copies ? 'copy' : 'zstd')
    const frame = { encoding, record: copies ? COPY.record : 0, checksum: xxh64(ZEROS) }
    const frames = Array<typeof frame>(count).fill(frame)
    const records = copies ? [] : [zstd(ZEROS, 19)]
    const sha = count > 16 ? new Uint8Array(32) : this.#shaOfZeros(header, count)
    const shards = [{ path: WEIGHTS, header, sha256: sha }]
    const delta = { ...this.#soundDelta(), shards, records, sources: [null], frames }
    return this.#delta(this.#sealed(delta), { logicalBytes: bytes })
  }

  #shaOfZeros(header: Uint8Array, frames: number): Uint8Array {
    const hash = createHash('sha256').update(withLength(header))
    for (let i = 0; i < frames; i++) hash.update(ZEROS)
    return hash.digest()
  }

  /** Headers of as many tensors as an index has room for, nothing or one byte in each. */
  #manyTensors() {
    const most = 2 ** (8 + this.#random.below(11))
    const count = 1 + this.#random.below(Math.min(most, this.#mostTensors))
    const width = this.#random.below(2)
    const shards = 1 + this.#random.below(5)
    const frame = { ...COPY, checksum: xxh64(Uint8Array.of(0)) }
    const described = Array.from({ length: shards }, (_, shard) => {
      const names = Array.from(
        { length: Math.ceil(count / shards) },
        (_, i) => `${shard}.${i.toString(36)}`,
      )
      const header = headerOf(
        names.map(name => ({ name, dtype: 'U8', shape: [width], bytes: ZEROS.subarray(0, width) })),
      )
      const sha = sha256(
        Buffer.concat([withLength(header), ZEROS.subarray(0, names.length * width)]),
      )
      return {
        path: `${shard}.safetensors`,
        header: Buffer.from(header),
        sha256: sha,
        tensors: names.length,
      }
    })
    const tensors = described.reduce((sum, shard) => sum + shard.tensors, 0)
    const sources = Array<null>(
      this.#random.chance(70) ? tensors : this.#random.below(tensors),
    ).fill(null)
    const frames = Array<typeof frame>(tensors * width).fill(frame)
    const delta = { ...this.#soundDelta(), shards: described, records: [], sources, frames }
    const file = this.#sealed(delta)
    if (file.length > MAX_BYTES) throw new Error(`a file of ${file.length} bytes`)
    const headers = described.reduce((sum, { header }) => sum + header.length, 0)
    return this.#delta(file, {
      logicalBytes: headers + tensors,
      tensors: Math.min(tensors, LIMITS.tensors),
    })
  }

  #manyTensorFiles() {
    const count = 1 + this.#random.below(30_000)
    const width = this.#random.below(2)
    const names = Array.from({ length: count }, (_, i) => i.toString(36))
    if (this.#random.chance(30)) names.push(names[0]!)
    const tensors = names.map(name => ({
      name,
      dtype: 'U8' as const,
      shape: [width],
      bytes: ZEROS.subarray(0, width),
    }))
    return this.#files(safetensors(tensors), { tensors: count })
  }

  #source(): RawSource | null {
    const { name, dtype, shape } = this.#random.pick(this.#base.tensors)
    return this.#random.pick<RawSource | null>([
      null,
      { name: null, dtype, shape },
      { name, dtype, shape },
      { name: 'nobody', dtype, shape },
      { name: '', dtype, shape },
      { name: null, dtype: this.#random.pick(Object.keys(DTYPE_BITS)), shape },
      { name: null, dtype: 'F99', shape },
      { name: null, dtype, shape: shape.map(() => BigInt.asUintN(64, this.#number())) },
      { name, dtype, shape: Array<number>(this.#random.below(256)).fill(1) },
    ])
  }

  /** A header of a safetensors file that is wrong in one way or another. */
  #hostileHeader(): string {
    const header = headerOf(this.#base.tensors)
    return this.#random.pick<() => string>([
      () =>
        header.replace(/\d+(?=[,\]])/g, number =>
          this.#random.chance(8) ? this.#random.pick(JSON_NUMBERS) : number,
        ),
      () => this.#hostileJson(header),
      () => header.replace('"w"', '"bias"'),
      () =>
        header.replace(
          '"w"',
          JSON.stringify(
            this.#random.pick(['', 'x'.repeat(2000), '__metadata__', '__proto__', '\u0000']),
          ),
        ),
      () => header.replace(/data_offsets":\[\d+/g, 'data_offsets":[0'),
      () => header.replaceAll('BF16', this.#random.pick(Object.keys(DTYPE_BITS))),
      () =>
        `{"__metadata__":{${Array.from({ length: this.#random.below(60_000) }, (_, i) => `"${i}":"\\u0041"`)}},${header.slice(1)}`,
      () => Buffer.from(this.#flipped(Buffer.from(header))).toString('latin1'),
    ])()
  }

  /** JSON that is deep, long, doubled, cut or no JSON at all. */
  #hostileJson(json: string): string {
    const depth = 1 + this.#random.below(100_000)
    const long = this.#random.below(500_000)
    return this.#random.pick([
      '['.repeat(depth),
      `{"a":`.repeat(depth),
      `{"x":${'['.repeat(depth)}${']'.repeat(depth)},${json.slice(1)}`,
      `{"x":"${'\\n'.repeat(long)}",${json.slice(1)}`,
      `{"x":[${'0,'.repeat(long)}0],${json.slice(1)}`,
      `{"${'x'.repeat(long)}":1,${json.slice(1)}`,
      `{${Array.from({ length: long / 20 }, (_, i) => `"${i}":${i}`)},${json.slice(1)}`,
      json.slice(0, this.#random.below(json.length)),
      `${json}${' '.repeat(long)}x`,
      `${json.slice(0, -1)},${json.slice(1)}`,
      Buffer.from(this.#flipped(Buffer.from(json))).toString('latin1'),
    ])
  }

  #v1File(json: string, records: readonly ArrayRecord[]): Uint8Array {
    return deltaFile(json, records)
  }

  /** A header of all three strategies, against the small tensors. */
  #v1Header(): string {
    const refs = (...fields: string[]) =>
      Object.fromEntries(fields.map(field => [field, { _ref: field }]))
    const float = { dtype: 'float32' }
    return JSON.stringify({
      parent_hash: this.#partHash(),
      strategy: 'int4',
      tensors: {
        bias: {
          ...float,
          strategy: 'int4',
          shape: [10],
          outlier_fraction: 0.1,
          n_elements: 10,
          n_outliers: 2,
          ...refs('outlier_idx', 'outlier_vals', 'scale', 'zero_point', 'packed'),
        },
        w: {
          ...float,
          strategy: 'quantized',
          shape: [64, 32],
          n_elements: 2048,
          n_cols: 32,
          ...refs('scales', 'packed_signs'),
          tuned_dtype: 'BF16',
        },
        ids: {
          ...float,
          strategy: 'sparse',
          shape: [4],
          sparsity: 0,
          ...refs('indices', 'values'),
        },
      },
    })
  }

  /** The reference's hash over the tensors that a version 1 delta names, in the order of its records. */
  #partHash(): string {
    const hash = createHash('sha256')
    for (const name of ['bias', 'w', 'ids']) {
      hash.update(name).update(this.#base.tensors.find(tensor => tensor.name === name)!.bytes)
    }
    return hash.digest('hex')
  }

  #v1Records(): ArrayRecord[] {
    const { bytes } = this.#base.tensors.find(({ name }) => name === 'w')!
    return [
      record('bias', 'outlier_idx', 'int64', 8, i64s(3, 8)),
      record('bias', 'outlier_vals', 'float16', 2, f16s(7, -7)),
      record('bias', 'scale', 'float16', 2, f16s(0.25)),
      record('bias', 'zero_point', 'float16', 2, f16s(-0.5)),
      record('bias', 'packed', 'uint8', 1, this.#random.bytes(4)),
      record('w', 'scales', 'float16', 2, f16s(...Array<number>(64).fill(0.01))),
      record('w', 'packed_signs', 'uint8', 1, bytes.slice(0, 256)),
      record('ids', 'indices', 'int64', 8, i64s()),
      record('ids', 'values', 'float32', 4, f32s()),
    ]
  }
}
