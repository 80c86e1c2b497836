import { createHash } from 'node:crypto'
import { constants, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import t from 'tap'
// As a user of the package imports it, from `wdelta-registry/codec`.
import * as codec from '../../src/codec/index.ts'
import {
  applyLink,
  baseRecipes,
  buildLayout,
  type Compression,
  decodeFrame,
  ENCODINGS,
  encodeFrame,
  FrameDeltaWriter,
  type FrameKernels,
  identityBytes,
  PlainMachine,
  parseLayout,
  planRange,
  readIndex,
  restoreFrame,
  type Segment,
  type Span,
  WdeltaReader,
} from '../../src/codec/index.ts'

const compression: Compression = {
  compress: (bytes, level) =>
    zstdCompressSync(bytes, {
      params: { [constants.ZSTD_c_compressionLevel]: level, [constants.ZSTD_c_contentSizeFlag]: 1 },
      pledgedSrcSize: bytes.length,
    }),
  decompress: (bytes, size) => zstdDecompressSync(bytes, { maxOutputLength: size + 1 }),
}

const tools: FrameKernels = { machine: new PlainMachine(), compression }

/** 1000 weights of a parent, and a fine-tune in which one of ten has moved. */
const before = Float32Array.from({ length: 1000 }, (_, i) => Math.fround(Math.sin(i)))
const after = before.map((weight, i) => (i % 10 === 0 ? Math.fround(weight * 1.001) : weight))
const layout = buildLayout([{ name: 'w', dtype: 'F32', shape: [10, 100] }], null)
const parentFile = Buffer.concat([layout.header, new Uint8Array(before.buffer)])
const tunedFile = Buffer.concat([layout.header, new Uint8Array(after.buffer)])

function sha256(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest()
}

function hasher() {
  const hash = createHash('sha256')
  return { update: (bytes: Uint8Array) => void hash.update(bytes), digest: () => hash.digest() }
}

/** The fine-tune as a frame delta: one tensor, one frame, one record. */
function writeDelta(): Buffer {
  const [dtype, shape] = ['F32', [10, 100]] as const
  const frame = new Uint8Array(after.buffer)
  const { encoding, stored } = encodeFrame(tools, dtype, frame, new Uint8Array(before.buffer))
  const writer = new FrameDeltaWriter(tools, hasher())
  const identity = createHash('sha256')
  const digest = sha256(new Uint8Array(before.buffer))
  for (const bytes of identityBytes([{ name: 'w', dtype, shape, digest }])) identity.update(bytes)
  return Buffer.concat([
    writer.begin(),
    ...writer.record(stored, tools.machine.checksum(stored)),
    ...writer.end({
      parentHash: createHash('sha256').update('w').update(before).digest('hex'),
      parentIdentity: identity.digest('hex'),
      shards: [{ path: 'model.safetensors', layout, sha256: sha256(tunedFile).toString('hex') }],
      tensors: [
        {
          ...{ name: 'w', dtype, shape, count: 1000, bytes: frame.length, firstFrame: 0 },
          source: { name: 'w', dtype, shape },
        },
      ],
      frames: {
        encodings: Uint8Array.of(ENCODINGS.indexOf(encoding)),
        records: Uint32Array.of(0),
        checksums: BigUint64Array.of(tools.machine.checksum(frame)),
      },
    }),
  ])
}

/** Decodes segments with the codec's functions alone; frames in float32 are of one dtype of 4 bytes here. */
function decode(segments: Iterable<Segment>, read: (span: Span) => Uint8Array): Buffer {
  return Buffer.concat(Array.from(segments, segment => decodeOne(segment, read)))
}

function decodeOne(segment: Segment, read: (span: Span) => Uint8Array): Uint8Array {
  if (segment.kind === 'bytes') return segment.bytes
  if (segment.kind === 'copy') return read(segment.span)
  const { start, end } = segment.slice
  if (segment.kind === 'frame') {
    const { frame, source, spans } = segment
    const bytes = new Uint8Array(frame.count * 4)
    decodeFrame(tools.machine, frame, [decode(source, read), ...spans.map(read)], bytes)
    return bytes.subarray(start, end)
  }
  const { size, dtype, encoding, span, prediction } = segment.frame
  const bytes = new Uint8Array(size)
  if (prediction) bytes.set(decode(prediction.source, read))
  restoreFrame(tools, dtype, encoding, span ? read(span) : new Uint8Array(0), bytes)
  return bytes.subarray(start, end)
}

t.test('a delta is read, a range of what it makes planned, and its frames decoded', async t => {
  const file = writeDelta()
  t.ok(file.length < tunedFile.length)
  const delta = await readIndex(async (start, end) => file.subarray(start, end), file.length, tools)
  const parent = baseRecipes([
    {
      path: 'model.safetensors',
      layout: parseLayout(layout.header, parentFile.length),
      blob: 'parent',
    },
  ])
  const model = applyLink(parent, { blob: 'delta', index: delta, domain: 'stored' })
  const read = ({ blob, start, end }: Span) =>
    (blob === 'parent' ? parentFile : file).subarray(start, end)
  const shard = delta.shards[0]!
  for (const [start, end] of [
    [0, tunedFile.length],
    [0, 10],
    [1001, 1003],
    [layout.header.length + 2, tunedFile.length - 1],
  ] as const) {
    const made = decode(planRange(model, shard.layout, { start, end }), read)
    t.ok(made.equals(tunedFile.subarray(start, end)), `bytes ${start} to ${end}`)
  }
})

t.test('what arrives in pieces gives the same index', async t => {
  const file = writeDelta()
  const reader = new WdeltaReader(tools, hasher())
  for (let at = 0; at < file.length; at += 100) reader.push(file.subarray(at, at + 100))
  const read = async (start: number, end: number) => file.subarray(start, end)
  t.strictSame(reader.end(), await readIndex(read, file.length, tools))
})

t.test('a cast is computed in float32 and rounded once', async t => {
  const half = buildLayout([{ name: 'w', dtype: 'BF16', shape: [10, 100] }], null)
  const parent = baseRecipes([{ path: 'model.safetensors', layout, blob: 'parent' }])
  const segments = planRange(parent, half, { start: 0, end: half.size })
  const made = [...segments].flatMap(segment => (segment.kind === 'frame' ? [segment] : []))
  t.equal(made.length, 1)
  const { frame, source } = made[0]!
  const bytes = new Uint8Array(2000)
  const read = ({ start, end }: Span) => parentFile.subarray(start, end)
  decodeFrame(tools.machine, frame, [decode(source, read)], bytes)
  t.equal(new Uint16Array(bytes.buffer)[1], 0x3f57, 'sin 1')
})

t.test('the door has the names that were chosen for it', async t => {
  t.strictSame(
    Object.keys(codec).sort(),
    [
      ...['CodecError', 'ENCODINGS', 'FrameDeltaWriter', 'LIMITS', 'LayoutReader', 'NO_RECORD'],
      ...['PlainMachine', 'WdeltaReader', 'applyLink', 'baseRecipes', 'buildLayout'],
      ...['checkExpansion', 'decodeFrame', 'encodeFrame', 'identityBytes', 'openKernels'],
      ...['parseLayout', 'planFrame', 'planHash', 'planRange', 'planTensor', 'readIndex'],
      ...['restoreFrame', 'encodeProgram', 'encodeWhole'],
      ...['planRecordDelta', 'recordDeltaPrefix', 'recordHeader'],
    ].sort(),
  )
})
