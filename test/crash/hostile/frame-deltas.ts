import { createHash } from 'node:crypto'
import { constants, zstdCompressSync } from 'node:zlib'
import { DTYPE_BITS } from '../../../src/codec/base/dtypes.ts'
import { FRAME_BYTES, LIMITS } from '../../../src/codec/base/limits.ts'
import { ENCODINGS, encodeFrame } from '../../../src/codec/frames/frame-encodings.ts'
import { identityBytes } from '../../../src/codec/safetensors/identity.ts'
import { threadKernels } from '../../../src/workers/kernels.ts'
import { sha256, u64 } from '../../support/models/wdelta-files.ts'
import {
  COPY,
  type RawDelta,
  type RawSource,
  rawIndex,
  resealed,
  sealedV2,
  xxh64,
  zstd,
} from '../../support/models/wdelta-v2-files.ts'
import { Random } from '../../support/random.ts'
import { Draws, type Makers } from './draws.ts'
import {
  headerOf,
  type KnownModel,
  padded,
  safetensors,
  WEIGHTS,
  withLength,
} from './known-model.ts'

/** Bytes of the longest file. */
const MAX_BYTES = 2_000_000
/** Deltas that are encoded in full; the others are made from these. */
const SOUND_DELTAS = 6
const ZEROS = new Uint8Array(FRAME_BYTES)

/** Makes deltas of version 2 that are hostile, and some that are sound. */
export class FrameDeltas {
  readonly #seed: number
  readonly #mostTensors: number
  readonly #sound = new Map<number, RawDelta>()

  /** `mostTensors`: of those that one file describes. */
  constructor(seed: number, mostTensors: number) {
    this.#seed = seed
    this.#mostTensors = mostTensors
  }

  /** The kinds of hostile deltas, drawn from one generator. */
  makers(draw: Draws): Makers {
    const { random } = draw
    return {
      'v2, sound': () => draw.delta(sealed(this.#soundDelta(draw)), { logicalBytes: 3e6 }),
      'v2, a number of the index': () => {
        const delta = this.#soundDelta(draw)
        const { bytes, numbers } = rawIndex(delta)
        const index = Buffer.from(bytes)
        draw.times(2, () => {
          const { at, width } = random.pick(numbers)
          Buffer.from(u64(draw.number())).copy(index, at, 0, width)
        })
        return draw.delta(sealedV2(delta.records, index), { logicalBytes: 3e6 })
      },
      'v2, bytes of the index': () => {
        const delta = this.#soundDelta(draw)
        return draw.delta(sealedV2(delta.records, draw.flipped(rawIndex(delta).bytes)), {
          logicalBytes: 3e6,
        })
      },
      'v2, cut or turned': () => {
        const file = Buffer.from(sealed(this.#soundDelta(draw)))
        const changed = random.chance(50)
          ? file.subarray(0, random.below(file.length))
          : draw.flipped(file)
        return draw.delta(random.chance(80) ? resealed(changed) : changed)
      },
      'v2, the tail': () => {
        const delta = this.#soundDelta(draw)
        const file = Buffer.from(sealed(delta))
        const [at, width] = random.pick([
          [64, 8],
          [56, 4],
          [52, 4],
          [48, 8],
          [40, 8],
        ])
        Buffer.from(u64(draw.number())).copy(file, file.length - at!, 0, width)
        return draw.delta(resealed(file))
      },
      'v2, records': () => {
        const delta = this.#soundDelta(draw)
        const at = random.below(delta.records.length)
        const spoilt = random.chance(50)
          ? draw.flipped(delta.records[at]!)
          : random.bytes(1 + random.below(5000))
        const records = delta.records.with(at, spoilt)
        const frames = delta.frames.map(frame =>
          frame.record === at && random.chance(50)
            ? { ...frame, encoding: random.below(ENCODINGS.length) }
            : frame,
        )
        return draw.delta(sealed({ ...delta, records, frames }), { logicalBytes: 3e6 })
      },
      'v2, a record that inflates': () => this.#inflatingRecord(draw),
      'v2, an index that inflates': () => {
        const size = 2 ** (16 + random.below(11))
        const index = new Uint8Array(size)
        index.set(rawIndex(this.#soundDelta(draw)).bytes.subarray(0, random.below(size)))
        const stored = zstd(index)
        const noise = random.below(MAX_BYTES / 2)
        // Skippable frames make room for more; nothing may stand there.
        const skipped = Buffer.concat([
          Buffer.from([0x50, 0x2a, 0x4d, 0x18]),
          Buffer.from(Uint32Array.of(noise).buffer),
          random.bytes(noise),
        ])
        const all = random.chance(50) ? Buffer.concat([skipped, stored]) : stored
        const inflated = random.chance(50) ? size : Number(draw.number() & 0xffffffffn)
        return draw.delta(sealedV2([], index, { stored: all, inflated }))
      },
      'v2, many frames of one record': () => this.#manyFrames(draw),
      'v2, many tensors': () => this.#manyTensors(draw),
      'v2, headers': () => {
        const delta = this.#soundDelta(draw)
        const header = Buffer.from(draw.header(), 'latin1')
        const shards = [{ ...delta.shards[0]!, header }]
        return draw.delta(sealed({ ...delta, shards }), { logicalBytes: 3e6 })
      },
      'v2, sources': () => {
        const delta = this.#soundDelta(draw)
        const sources = delta.sources.map(source => (random.chance(40) ? sourceOf(draw) : source))
        return draw.delta(sealed({ ...delta, sources }), { logicalBytes: 3e6 })
      },
      'v2, another parent': () => {
        const delta = this.#soundDelta(draw)
        const parentHash = random.bytes(32)
        const parentIdentity = random.chance(50) ? random.bytes(32) : delta.parentIdentity
        const file = sealed({ ...delta, parentHash, parentIdentity })
        return draw.delta(file, { fields: random.chance(50) ? {} : draw.named })
      },
    }
  }

  /** One of a few deltas that are sound: to encode one takes longer than to spoil it. */
  #soundDelta({ random, base }: Draws): RawDelta {
    const which = random.below(SOUND_DELTAS)
    const known = this.#sound.get(which)
    if (known) return known
    const delta = this.#encoded(new Draws(new Random(this.#seed - 1 - which), base))
    this.#sound.set(which, delta)
    return delta
  }

  /** A delta that gives what `draw` makes of the known model. */
  #encoded(draw: Draws): RawDelta {
    const tuned = draw.tuned()
    const records: Uint8Array[] = []
    const frames: RawDelta['frames'][number][] = []
    const sources = tuned.map(({ name, dtype, shape, bytes }, i): RawSource | null => {
      // One of them stands alone, so that there is a record whatever came out.
      const parent = name === 'scales' ? null : draw.base.tensors[i]!.bytes
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
      parentIdentity: identityOf(draw.base),
      parentHash: Buffer.from(draw.base.parentHash, 'hex'),
      shards: [{ path: WEIGHTS, header, sha256: sha256(safetensors(tuned)) }],
      records,
      sources,
      frames,
    }
  }

  /** A frame whose record gives more than the frame, or asks for much to do so. */
  #inflatingRecord(draw: Draws) {
    const { random } = draw
    const delta = this.#soundDelta(draw)
    const size = 2 ** (20 + random.below(7))
    const long = zstd(new Uint8Array(size))
    const wide = zstdCompressSync(ZEROS, {
      params: { [constants.ZSTD_c_windowLog]: 27, [constants.ZSTD_c_contentSizeFlag]: 0 },
    })
    const twice = Buffer.concat([zstd(ZEROS), zstd(ZEROS)])
    const records = delta.records.with(0, random.pick([long, wide, twice]))
    const encoding = ENCODINGS.indexOf(random.pick(['zstd', 'planes', 'xor', 'sparse', 'coded']))
    const frames = delta.frames.map(frame => (frame.record === 0 ? { ...frame, encoding } : frame))
    return draw.delta(sealed({ ...delta, records, frames }), { logicalBytes: 3e6 })
  }

  /** From a few to millions of frames that share one record, or have none. */
  #manyFrames(draw: Draws) {
    const { random } = draw
    const count = 1 + random.below(2 ** random.below(23))
    const bytes = count * FRAME_BYTES
    const header = Buffer.from(
      padded(`{"w":{"dtype":"U8","shape":[${count},${FRAME_BYTES}],"data_offsets":[0,${bytes}]}}`),
    )
    const copies = random.chance(50)
    const encoding = ENCODINGS.indexOf(copies ? 'copy' : 'zstd')
    const frame = { encoding, record: copies ? COPY.record : 0, checksum: xxh64(ZEROS) }
    const frames = Array<typeof frame>(count).fill(frame)
    const records = copies ? [] : [zstd(ZEROS, 19)]
    const sha = count > 16 ? new Uint8Array(32) : shaOfZeros(header, count)
    const shards = [{ path: WEIGHTS, header, sha256: sha }]
    const delta = { ...this.#soundDelta(draw), shards, records, sources: [null], frames }
    return draw.delta(sealed(delta), { logicalBytes: bytes })
  }

  /** Headers of as many tensors as an index has room for, nothing or one byte in each. */
  #manyTensors(draw: Draws) {
    const { random } = draw
    const most = 2 ** (8 + random.below(11))
    const count = 1 + random.below(Math.min(most, this.#mostTensors))
    const width = random.below(2)
    const shards = 1 + random.below(5)
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
    const sources = Array<null>(random.chance(70) ? tensors : random.below(tensors)).fill(null)
    const frames = Array<typeof frame>(tensors * width).fill(frame)
    const delta = { ...this.#soundDelta(draw), shards: described, records: [], sources, frames }
    const file = sealed(delta)
    if (file.length > MAX_BYTES) throw new Error(`a file of ${file.length} bytes`)
    const headers = described.reduce((sum, { header }) => sum + header.length, 0)
    return draw.delta(file, {
      logicalBytes: headers + tensors,
      tensors: Math.min(tensors, LIMITS.tensors),
    })
  }
}

function sealed(delta: RawDelta): Uint8Array {
  return sealedV2(delta.records, rawIndex(delta).bytes)
}

/** Our identity of a model. */
function identityOf({ tensors }: KnownModel): Uint8Array {
  const hash = createHash('sha256')
  const digested = tensors.map(tensor => ({ ...tensor, digest: sha256(tensor.bytes) }))
  for (const bytes of identityBytes(digested)) hash.update(bytes)
  return hash.digest()
}

function shaOfZeros(header: Uint8Array, frames: number): Uint8Array {
  const hash = createHash('sha256').update(withLength(header))
  for (let i = 0; i < frames; i++) hash.update(ZEROS)
  return hash.digest()
}

/** What predicts a tensor, rightly or not. */
function sourceOf(draw: Draws): RawSource | null {
  const { random } = draw
  const { name, dtype, shape } = random.pick(draw.base.tensors)
  return random.pick<RawSource | null>([
    null,
    { name: null, dtype, shape },
    { name, dtype, shape },
    { name: 'nobody', dtype, shape },
    { name: '', dtype, shape },
    { name: null, dtype: random.pick(Object.keys(DTYPE_BITS)), shape },
    { name: null, dtype: 'F99', shape },
    { name: null, dtype, shape: shape.map(() => BigInt.asUintN(64, draw.number())) },
    { name, dtype, shape: Array<number>(random.below(256)).fill(1) },
  ])
}
