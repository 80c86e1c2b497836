import { createHash } from 'node:crypto'
import type { BlobRecord, ErrorFigures } from '../../catalog/records.ts'
import { BLOCK_BYTES } from '../../codec/base/block-sums.ts'
import { DIGEST_BYTES } from '../../codec/base/hasher.ts'
import type { Steps } from '../../codec/base/steps.ts'
import type { Domain } from '../../codec/plan/recipes.ts'
import { parseLayoutSteps, withLengthWord } from '../../codec/safetensors/header.ts'
import type { RecordDelta, RecordTensor } from '../../codec/wdelta/delta-index.ts'
import { readStoredIndex } from '../../codec/wdelta/v2/reader.ts'
import { BlockError } from '../../workers/errors.ts'
import { threadKernels } from '../../workers/kernels.ts'
import { openStoredIndex } from '../../workers/open-index.ts'
import { inTurns } from '../../workers/turns.ts'
import {
  frameDeltaShards,
  type Manifest,
  type ManifestBlob,
  type ManifestDelta,
  type ManifestHead,
  type ManifestShard,
  type PublishedModel,
} from './manifest.ts'

/** The JSON of a manifest. Lengths name what follows the checksums, in the order of this text. */
interface StoredManifest {
  readonly version: 2
  readonly model: PublishedModel
  readonly identity: string | null
  /** Empty beside a frame delta, which names them itself. `header` counts the bytes of length word and header. */
  readonly shards: readonly {
    readonly path: string
    readonly size: number
    readonly header: number
    readonly blob: string | null
  }[]
  readonly delta:
    | null
    | { readonly format: 2; readonly blob: string; readonly size: number }
    | {
        readonly format: 1
        readonly blob: string
        readonly domain: Domain
        readonly index: Omit<RecordDelta, 'tensors'>
        /** Lengths of JSON lists of LIST_ITEMS. */
        readonly tensors: readonly number[]
        readonly errors: readonly number[] | null
      }
  readonly blobs: readonly BlobRecord[]
}

/** The JSON of a manifest of version 1, which held headers and indexes itself: nothing was behind the checksums. */
interface StoredManifestV1 extends Omit<StoredManifest, 'version' | 'shards' | 'delta'> {
  readonly version: 1
  /** `header` is the JSON of the header. */
  readonly shards: readonly {
    readonly path: string
    readonly size: number
    readonly header: string
    readonly blob: string | null
  }[]
  readonly delta:
    | null
    | { readonly format: 2; readonly blob: string; readonly size: number }
    | {
        readonly format: 1
        readonly blob: string
        readonly domain: Domain
        readonly index: RecordDelta
        readonly errors: readonly [string, ErrorFigures][] | null
      }
}

const WORD_BYTES = 4
const SUM_BYTES = 8
/** Items of a JSON list of its own: short enough that neither writing nor parsing it holds the event loop. */
const LIST_ITEMS = 256
/** Bytes that are hashed, or staged, at once. */
const PIECE_BYTES = 1024 * 1024

/**
 * A manifest as bytes, in pieces: u32 length of a JSON text, the text, the checksums of the blobs that it names, in their order (u64 for each
 * block), the headers of the shards as they are in their files, the lists of a record delta, and the SHA-256 of everything before it.
 * Numbers are little-endian. Headers and lists are not in the text because it is made and parsed at once, and they may be 25 MB.
 */
export function writeManifest(manifest: Manifest): Promise<Uint8Array[]> {
  return inTurns(manifestSteps(manifest))
}

function* manifestSteps({ model, identity, shards, delta, blobs }: Manifest): Steps<Uint8Array[]> {
  const named = delta?.index.shards ? [] : shards
  const lists = yield* listsOf(delta)
  const stored: StoredManifest = {
    version: 2,
    model,
    identity,
    shards: named.map(({ path, layout, blob }) => ({
      path,
      size: layout.size,
      header: layout.header.length,
      blob,
    })),
    delta: delta && storedDelta(delta, lists),
    blobs: blobs.map(({ key, sha256, size }) => ({ key, sha256, size })),
  }
  const json = Buffer.from(JSON.stringify(stored))
  const length = Buffer.alloc(WORD_BYTES)
  length.writeUInt32LE(json.length)
  const parts: Uint8Array[] = [length, json]
  for (const { sums } of blobs) {
    yield
    parts.push(writeSums(sums))
  }
  parts.push(...named.map(({ layout }) => layout.header), ...lists.tensors, ...lists.errors)
  const pieces = parts.flatMap(part => [...piecesOf(part)])
  return [...pieces, yield* sha256(pieces)]
}

function writeSums(sums: BigUint64Array): Uint8Array {
  const bytes = Buffer.alloc(sums.length * SUM_BYTES)
  for (const [i, sum] of sums.entries()) bytes.writeBigUInt64LE(sum, i * SUM_BYTES)
  return bytes
}

/** The lists of a record delta, as JSON. */
interface Lists {
  readonly tensors: readonly Uint8Array[]
  readonly errors: readonly Uint8Array[]
}

function* listsOf(delta: ManifestDelta | null): Steps<Lists> {
  if (!delta || delta.index.frames) return { tensors: [], errors: [] }
  const { index, errors } = delta
  return {
    tensors: yield* writeLists(index.tensors),
    errors: yield* writeLists([...(errors ?? [])]),
  }
}

function* writeLists(items: readonly unknown[]): Steps<Uint8Array[]> {
  const lists: Uint8Array[] = []
  for (let i = 0; i < items.length; i += LIST_ITEMS) {
    lists.push(Buffer.from(JSON.stringify(items.slice(i, i + LIST_ITEMS))))
    yield
  }
  return lists
}

function storedDelta(
  { blob, domain, index, errors }: ManifestDelta,
  lists: Lists,
): StoredManifest['delta'] {
  if (index.frames) return { format: index.format, blob, size: index.size }
  const { tensors: _tensors, ...described } = index
  const lengths = (parts: readonly Uint8Array[]) => parts.map(part => part.length)
  return {
    format: index.format,
    blob,
    domain,
    index: described,
    tensors: lengths(lists.tensors),
    errors: errors && lengths(lists.errors),
  }
}

/** Reads bytes `[start, end)` of a blob, checked. */
export type ReadBlob = (blob: string, start: number, end: number) => Promise<Uint8Array>

/** Parses what the catalog needs of the manifest under `key`. Rejects with BlockError for bytes that are none, or other ones than were written. */
export async function readManifestHead(key: string, bytes: Uint8Array): Promise<ManifestHead> {
  const { stored, blobs } = await inTurns(parse(key, bytes))
  return { model: stored.model, blobs }
}

/**
 * The manifest from its bytes, and from the delta where that has an index of its own. Rejects as {@link readManifestHead}, and with what `read`
 * does.
 */
export async function openManifest(
  key: string,
  bytes: Uint8Array,
  readWith: (blobs: readonly ManifestBlob[]) => ReadBlob,
): Promise<Manifest> {
  const parsed = await inTurns(parse(key, bytes))
  const { stored, blobs } = parsed
  const { model, identity, delta } = stored
  const opened = { model, identity, blobs }
  if (delta?.format === 2) return { ...opened, ...(await openFrameDelta(delta, readWith(blobs))) }
  const described = stored.version === 1 ? readDescribedV1(stored) : readDescribed(stored, parsed)
  return { ...opened, ...(await inTurns(described)) }
}

/** The text of a manifest, its blobs with their checksums, and what is behind those. */
interface Parsed {
  readonly stored: StoredManifest | StoredManifestV1
  readonly blobs: ManifestBlob[]
  readonly rest: Buffer
}

function* parse(key: string, bytes: Uint8Array): Steps<Parsed> {
  try {
    const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    const payload = all.subarray(0, -DIGEST_BYTES)
    const found = yield* sha256(piecesOf(payload))
    if (!found.equals(all.subarray(-DIGEST_BYTES))) throw new Error('another SHA-256')
    const jsonEnd = WORD_BYTES + payload.readUInt32LE()
    const stored = JSON.parse(payload.toString('utf8', WORD_BYTES, jsonEnd)) as Parsed['stored']
    const { version } = stored
    if (version !== 1 && version !== 2) throw new Error(`version ${version}`)
    let at = jsonEnd
    const blobs: ManifestBlob[] = []
    for (const blob of stored.blobs) {
      const sums = new BigUint64Array(Math.ceil(blob.size / BLOCK_BYTES))
      for (let i = 0; i < sums.length; i++, at += SUM_BYTES) sums[i] = payload.readBigUInt64LE(at)
      blobs.push({ ...blob, sums })
      yield
    }
    return { stored, blobs, rest: payload.subarray(at) }
  } catch (cause) {
    throw new BlockError(key, 0, 'checksum', { cause })
  }
}

/** The shards of a manifest that describes them, and its delta. */
type Described = Pick<Manifest, 'shards' | 'delta'>

function* readDescribed(
  { shards: stored, delta }: StoredManifest,
  { rest }: Parsed,
): Steps<Described> {
  let at = 0
  const take = (length: number) => {
    at += length
    return rest.subarray(at - length, at)
  }
  const shards: ManifestShard[] = []
  for (const { path, size, header, blob } of stored) {
    shards.push({ path, blob, layout: yield* parseLayoutSteps(take(header), size) })
  }
  if (delta?.format !== 1) return { shards, delta: null }
  const { blob, domain, index, tensors, errors } = delta
  const read = <T>(lengths: readonly number[]) => readLists<T>(lengths.map(take))
  const opened = { ...index, tensors: yield* read<RecordTensor>(tensors) }
  const figures = errors && new Map(yield* read<[string, ErrorFigures]>(errors))
  return { shards, delta: { blob, domain, index: opened, errors: figures } }
}

function* readLists<T>(lists: readonly Buffer[]): Steps<T[]> {
  const items: T[] = []
  for (const list of lists) {
    items.push(...(JSON.parse(list.toString()) as T[]))
    yield
  }
  return items
}

function* readDescribedV1({ shards: stored, delta }: StoredManifestV1): Steps<Described> {
  const shards: ManifestShard[] = []
  for (const { path, size, header, blob } of stored) {
    const layout = yield* parseLayoutSteps(withLengthWord(Buffer.from(header)), size)
    shards.push({ path, blob, layout })
  }
  if (delta?.format !== 1) return { shards, delta: null }
  return { shards, delta: { ...delta, errors: delta.errors && new Map(delta.errors) } }
}

/** What a manifest leaves to a frame delta: its index, and the shards that it gives back. Rejects as `read` does, and with CodecError. */
export async function openFrameDelta(
  { blob, size }: { blob: string; size: number },
  read: ReadBlob,
): Promise<Pick<Manifest, 'shards' | 'delta'>> {
  const stored = await readStoredIndex(
    (start, end) => read(blob, start, end),
    size,
    threadKernels(),
  )
  const index = await openStoredIndex(stored)
  return {
    shards: frameDeltaShards(index),
    delta: { blob, domain: 'stored', index, errors: null },
  }
}

function* piecesOf(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) yield bytes.subarray(at, at + PIECE_BYTES)
}

function* sha256(pieces: Iterable<Uint8Array>): Steps<Buffer> {
  const hash = createHash('sha256')
  for (const piece of pieces) {
    hash.update(piece)
    yield
  }
  return hash.digest()
}
