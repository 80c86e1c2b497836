import { createHash } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { DIGEST_BYTES, type Hasher } from '../../codec/base/hasher.ts'
import type { BaseShard } from '../../codec/plan/recipes.ts'
import { headerBytes, LENGTH_BYTES, parseLayout } from '../../codec/safetensors/header.ts'
import { assembleTensors, checkShardIndex } from '../../codec/safetensors/model-folder.ts'
import type { DeltaIndex } from '../../codec/wdelta/delta-index.ts'
import { WdeltaReader } from '../../codec/wdelta/reader.ts'
import { prefixV2 } from '../../codec/wdelta/v2/format.ts'
import { readIndex } from '../../codec/wdelta/v2/reader.ts'
import { threadKernels } from '../../workers/kernels.ts'
import { CliError, inFile } from '../failure.ts'
import type { LocalFiles } from './files.ts'

/** The name that `load` gives to the one file that it writes. */
export const WEIGHTS = 'model.safetensors'

/** The file that names the shard of each tensor. */
const SHARD_INDEX = 'model.safetensors.index.json'
/** Bytes of a `.wdelta` read at once. */
const READ_BYTES = 1024 * 1024

/** A `.wdelta` on disk. */
export interface LocalDelta {
  readonly path: string
  readonly index: DeltaIndex
}

/**
 * The shards of a model folder in Hugging Face's layout: every `*.safetensors` directly in it, in path order, as in the reference. If there is a
 * shard index, it must agree with them.
 * Rejects with CliError (the codec's rules; `no-shards`) or with the error of the file system.
 */
export async function openModelFolder(files: LocalFiles, folder: string): Promise<BaseShard[]> {
  const names = await readdir(folder)
  const weights = names
    .filter(name => name.endsWith('.safetensors') && !name.startsWith('.'))
    .sort()
  if (weights.length === 0) {
    throw new CliError('no-shards', `${folder}: expected at least one .safetensors file`)
  }
  const shards: BaseShard[] = []
  for (const path of weights) shards.push(await openShard(files, join(folder, path), path))
  await inFolder(folder, () => assembleTensors(shards))
  if (names.includes(SHARD_INDEX)) {
    const blob = join(folder, SHARD_INDEX)
    const json = await files.read({ blob, start: 0, end: await files.size(blob) }, undefined)
    await inFolder(blob, () => checkShardIndex(json, shards))
  }
  return shards
}

async function openShard(files: LocalFiles, blob: string, path: string): Promise<BaseShard> {
  const size = await files.size(blob)
  return inFolder(blob, async () => {
    const start = { blob, start: 0, end: Math.min(LENGTH_BYTES, size) }
    const first = await files.read(start, undefined)
    const header = await files.read({ ...start, end: headerBytes(first, size) }, undefined)
    return { path, blob, layout: parseLayout(header, size) }
  })
}

/**
 * Reads a `.wdelta` once and checks all of it. Without `checksum`, the SHA-256 at its end is not checked, but the structure is; of a file of
 * version 2 only the index is read then, as its frames are checked when they are decoded. Rejects with CliError or with the error of the file system.
 */
export async function openDelta(
  files: LocalFiles,
  path: string,
  { checksum, signal }: { checksum: boolean; signal: AbortSignal },
): Promise<LocalDelta> {
  const size = await files.size(path)
  return inFolder(path, async () => {
    if (!checksum && (await isFrameDelta(files, path, size))) {
      const read = (start: number, end: number) => files.read({ blob: path, start, end }, signal)
      return { path, index: await readIndex(read, size, threadKernels()) }
    }
    const hasher = checksum ? createHash('sha256') : await claimedDigest(files, path, size)
    const reader = new WdeltaReader(threadKernels(), hasher, { fileSize: size })
    for await (const bytes of fileChunks(files, path, size, signal)) reader.push(bytes)
    return { path, index: reader.end() }
  })
}

/** Whether a file begins as a `.wdelta` of version 2. */
async function isFrameDelta(files: LocalFiles, path: string, size: number): Promise<boolean> {
  const expected = prefixV2()
  if (size < expected.length) return false
  const first = await files.read({ blob: path, start: 0, end: expected.length }, undefined)
  return Buffer.compare(first, expected) === 0
}

/** All bytes of a file. Each chunk is read while the caller uses the one before, and its memory is reused for the one after next. */
export async function* fileChunks(
  files: LocalFiles,
  path: string,
  size: number,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const buffers = [Buffer.allocUnsafeSlow(READ_BYTES), Buffer.allocUnsafeSlow(READ_BYTES)]
  const begin = (start: number) => {
    const into = buffers[(start / READ_BYTES) % 2]!.subarray(0, Math.max(0, size - start))
    const read = files.readInto(path, into, start).then(() => into)
    // It is awaited at its turn, or never if the chunk before is refused.
    read.catch(() => {})
    return read
  }
  let next = begin(0)
  for (let start = 0; start < size; start += READ_BYTES) {
    const bytes = await next
    signal.throwIfAborted()
    next = begin(start + READ_BYTES)
    yield bytes
  }
}

/** A hasher whose digest is the one that the file claims. */
async function claimedDigest(files: LocalFiles, path: string, size: number): Promise<Hasher> {
  const span = { blob: path, start: Math.max(0, size - DIGEST_BYTES), end: size }
  const trailer = await files.read(span, undefined)
  return { update: () => {}, digest: () => trailer }
}

async function inFolder<T>(path: string, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw inFile(path, error)
  }
}
