/**
 * The codec: bytes and ranges in, bytes and plans out, and no I/O, in Node as in a browser. This is what the package gives as
 * `wdelta-registry/codec`; code inside the project imports files.
 *
 * Reading a `.wdelta`, planning a range of what it makes, and decoding a frame of it:
 *
 *     // zstd is the caller's: node:zlib has it. `wasm` are the bytes of kernels/kernels.wasm.
 *     const tools = { machine: openKernels(wasm), compression: { compress, decompress } }
 *
 *     // `read` gives bytes [start, end) of the delta: its index is found by one read of its end.
 *     const delta = await readIndex(read, size, tools)
 *
 *     // What the delta makes of its parent; here that is one file, which plans call by the name of its blob.
 *     const layout = parseLayout(header, fileSize)
 *     const parent = baseRecipes([{ path: 'model.safetensors', layout, blob: 'parent' }])
 *     const model = applyLink(parent, { blob: 'delta', index: delta, domain: 'stored' })
 *
 *     for (const segment of planRange(model, delta.shards[0].layout, { start: 0, end: 1000 })) {
 *       if (segment.kind === 'bytes') write(segment.bytes)
 *       else if (segment.kind === 'copy') write(readSpan(segment.span))
 *       else if (segment.kind === 'lossless') {
 *         const { frame, slice } = segment
 *         const bytes = predict(frame) // frame.size bytes: what frame.prediction gives, then zeros
 *         restoreFrame(tools, frame.dtype, frame.encoding, readSpan(frame.span), bytes)
 *         write(bytes.subarray(slice.start, slice.end))
 *       }
 *     }
 *
 * `test/codec/index.test.ts` does all of it.
 */

/** The dtypes of safetensors, by their names in a header. */
export type { Dtype } from './base/dtypes.ts'
/** Every refusal of the codec: the rule that was broken, what was expected, what came, and at which byte. */
export { CodecError } from './base/errors.ts'
/** A SHA-256 that takes bytes in pieces: the caller brings one. */
export type { Hasher } from './base/hasher.ts'
/** The caps that every number from a file is compared with, each with its unit. */
export { LIMITS } from './base/limits.ts'
/** Bytes `[start, end)`, and bytes of a blob by whatever name the caller gave it. */
export type { ByteRange, Span } from './base/ranges.ts'
/** zstd, which the caller brings. */
export type { Compression } from './base/zstd.ts'

/** Decodes a frame that is computed in float32: loads the parent's values, adds deltas, casts once at the end. */
export { decodeFrame } from './frames/float-frame.ts'
/** The encodings of a frame as bytes, in the order of their numbers; the smallest one for a frame; and the way back. */
export { ENCODINGS, encodeFrame, restoreFrame } from './frames/frame-encodings.ts'
/** What frames are encoded and decoded with: a machine and zstd. */
export type { FrameKernels } from './frames/frame-kernels.ts'
/** The operations on the values of a frame. */
export type { FrameMachine } from './kernels/machine.ts'
/** A machine in plain TypeScript: the specification of the other, slower, without WebAssembly. */
export { PlainMachine } from './kernels/plain.ts'
/** A machine over the SIMD kernels of `kernels.wasm`. */
export { openKernels } from './kernels/simd.ts'

/** The data of a tensor's arrays in a record delta (int4, sparse, quantized): as passes over runs of frames, or all at once. */
export { encodeProgram, encodeWhole } from './lossy/encode.ts'

/** Refuses a delta that gives far more bytes than its parent and its own file account for. */
export { checkExpansion } from './plan/expansion.ts'
/** Plans what to read and decode for a range of a file, for a tensor, or for the hash that a delta names its parent by. */
export { planFrame, planHash, planRange, planTensor } from './plan/plan.ts'
/** How each tensor of a model comes about: of one that is stored whole, and of what a delta makes of its parent. */
export { applyLink, baseRecipes, type Recipes } from './plan/recipes.ts'
/** A piece of the output of a plan: bytes, a copy, or part of a frame. */
export type { Segment } from './plan/segments.ts'

/** The layout of a safetensors file from its header: names, dtypes, shapes and offsets, all checked. */
export { parseLayout } from './safetensors/header.ts'
/** What the identity of a model is the SHA-256 of: a frame delta names its parent by it. */
export { identityBytes } from './safetensors/identity.ts'
/** What a safetensors file looks like before a byte of its data is known. */
export type { Layout } from './safetensors/layout.ts'
/** Reads the header of a safetensors file that arrives in pieces. */
export { LayoutReader } from './safetensors/layout-reader.ts'
/** The layout, header bytes included, that the reference's writer gives some tensors. */
export { buildLayout } from './safetensors/write-header.ts'

/** A delta of either form, as its index describes it. */
export type { DeltaIndex, FrameDelta, RecordDelta } from './wdelta/delta-index.ts'
/** Reads a `.wdelta` of either version that arrives in pieces, checks every byte of it, and gives its index. */
export { WdeltaReader } from './wdelta/reader.ts'
/** A record delta as it is written: planned, then its first bytes, then the header of each array in front of its data. */
export { planRecordDelta, recordDeltaPrefix, recordHeader } from './wdelta/v1/writer.ts'
/** The number that stands for the record of a frame that has none. */
export { NO_RECORD } from './wdelta/v2/format.ts'
/** Reads the index of a frame delta by its end, without the rest of the file. */
export { readIndex } from './wdelta/v2/reader.ts'
/** Writes a frame delta in one pass. */
export { FrameDeltaWriter } from './wdelta/v2/writer.ts'
