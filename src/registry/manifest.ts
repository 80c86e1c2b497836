import { createHash } from 'node:crypto'
import type { BlobRecord, ErrorFigures, ModelRecord } from '../catalog/catalog.ts'
import {
  type BaseShard,
  BLOCK_BYTES,
  type BlockSums,
  type DeltaIndex,
  type DeltaIndexV1,
  type Domain,
  type LosslessIndex,
  parseLayout,
  readStoredIndex,
  type Shard,
} from '../codec/index.ts'
import { RegistryError } from '../errors.ts'
import { BlockError } from '../workers/block-error.ts'
import { openStoredIndex } from '../workers/open-index.ts'
import { tools } from '../workers/tools.ts'

/** A safetensors file of a model; `blob` is null where its bytes are reconstructed. */
export interface ManifestShard extends Shard {
  readonly blob: string | null
}

export interface ManifestDelta {
  /** Key of the `.wdelta` blob. */
  readonly blob: string
  readonly domain: Domain
  readonly index: DeltaIndex
  /** Error figures by tensor; null where only the `.wdelta` was seen. */
  readonly errors: ReadonlyMap<string, ErrorFigures> | null
}

/** A blob that a model refers to, and what its bytes are checked against. */
export interface ManifestBlob extends BlobRecord {
  readonly sums: BigUint64Array
}

/** A row of the catalog without what is not known when a model is published, or follows from the rest. */
export type PublishedModel = Omit<ModelRecord, 'manifest' | 'storedSize' | 'damaged' | 'filesTotal'>

/**
 * What a plan needs of one model beside its blobs, and all that the catalog would need to know it again: a blob of its own, so that the
 * catalog stays small and can be made again.
 */
export interface Manifest {
  readonly model: PublishedModel
  /** Of the tensors, whatever the shards: see `codec/FORMAT.md`. Null where it was not taken when the model was published. */
  readonly identity: string | null
  /** In publication order, by path. */
  readonly shards: readonly ManifestShard[]
  /** Null for a base. */
  readonly delta: ManifestDelta | null
  /** All that the model refers to but its manifest. */
  readonly blobs: readonly ManifestBlob[]
}

/** The JSON of a manifest. */
interface StoredManifest {
  readonly version: 1
  readonly model: PublishedModel
  readonly identity: string | null
  /** Empty beside a lossless delta, which names them itself. */
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
        readonly index: DeltaIndexV1
        readonly errors: readonly [string, ErrorFigures][] | null
      }
  readonly blobs: readonly BlobRecord[]
}

const LENGTH_BYTES = 8
const WORD_BYTES = 4
const SUM_BYTES = 8
const DIGEST_BYTES = 32

/**
 * A manifest as bytes: u32 length of a JSON text, the text, the checksums of the blobs that it names, in their order (u64 for each block),
 * and the SHA-256 of everything before it. Numbers are little-endian.
 */
export function writeManifest(manifest: Manifest): Uint8Array {
  const { model, identity, shards, delta, blobs } = manifest
  const named = delta?.index.format === 2 ? [] : shards
  const stored: StoredManifest = {
    version: 1,
    model,
    identity,
    shards: named.map(({ path, layout, blob }) => ({
      path,
      size: layout.size,
      // Strict UTF-8 by the parser's rule, so the text gives back the same bytes.
      header: Buffer.from(layout.header.subarray(LENGTH_BYTES)).toString('utf8'),
      blob,
    })),
    delta: delta && storedDelta(delta),
    blobs: blobs.map(({ key, sha256, size }) => ({ key, sha256, size })),
  }
  const json = Buffer.from(JSON.stringify(stored))
  const length = Buffer.alloc(WORD_BYTES)
  length.writeUInt32LE(json.length)
  const sums = blobs.map(({ sums }) => {
    const bytes = Buffer.alloc(sums.length * SUM_BYTES)
    for (const [i, sum] of sums.entries()) bytes.writeBigUInt64LE(sum, i * SUM_BYTES)
    return bytes
  })
  const payload = Buffer.concat([length, json, ...sums])
  return Buffer.concat([payload, sha256(payload)])
}

function storedDelta({ blob, domain, index, errors }: ManifestDelta): StoredManifest['delta'] {
  if (index.format === 2) return { format: 2, blob, size: index.size }
  return { format: 1, blob, domain, index, errors: errors && [...errors] }
}

/** The row of a model whose manifest is stored. */
export function toRecord(
  model: PublishedModel,
  manifest: Pick<BlobRecord, 'key' | 'size'>,
  blobs: readonly BlobRecord[],
): ModelRecord {
  const storedSize = blobs.reduce((sum, { size }) => sum + size, manifest.size)
  const filesTotal = model.files.length
  return { ...model, filesTotal, manifest: manifest.key, storedSize, damaged: null }
}

/** Reads bytes `[start, end)` of a blob, checked. */
export type ReadBlob = (blob: string, start: number, end: number) => Promise<Uint8Array>

/** What a manifest says of a model, and of the blobs that it refers to. */
export type ManifestHead = Pick<Manifest, 'model' | 'blobs'>

/** Parses what the catalog needs of the manifest under `key`. @throws BlockError for bytes that are none, or other ones than were written */
export function readManifestHead(key: string, bytes: Uint8Array): ManifestHead {
  const { stored, blobs } = parse(key, bytes)
  return { model: stored.model, blobs }
}

/** The manifest from its bytes, and from the delta where that has an index of its own. Rejects as {@link readManifestHead}, and with what `read` does. */
export async function openManifest(
  key: string,
  bytes: Uint8Array,
  readWith: (blobs: readonly ManifestBlob[]) => ReadBlob,
): Promise<Manifest> {
  const { stored, blobs } = parse(key, bytes)
  const { model, identity, delta } = stored
  const opened = { model, identity, blobs }
  if (delta?.format === 2) return { ...opened, ...(await openLossless(delta, readWith(blobs))) }
  return {
    ...opened,
    shards: stored.shards.map(({ path, size, header, blob }) => ({
      path,
      blob,
      layout: parseLayout(withLength(Buffer.from(header)), size),
    })),
    delta: delta && { ...delta, errors: delta.errors && new Map(delta.errors) },
  }
}

function parse(key: string, bytes: Uint8Array): { stored: StoredManifest; blobs: ManifestBlob[] } {
  try {
    const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
    const payload = all.subarray(0, -DIGEST_BYTES)
    if (!sha256(payload).equals(all.subarray(-DIGEST_BYTES))) throw new Error('another SHA-256')
    const jsonEnd = WORD_BYTES + payload.readUInt32LE()
    const stored = JSON.parse(payload.toString('utf8', WORD_BYTES, jsonEnd)) as StoredManifest
    if (stored.version !== 1) throw new Error(`version ${stored.version}`)
    let at = jsonEnd
    const blobs = stored.blobs.map(blob => {
      const sums = new BigUint64Array(Math.ceil(blob.size / BLOCK_BYTES))
      for (let i = 0; i < sums.length; i++, at += SUM_BYTES) sums[i] = payload.readBigUInt64LE(at)
      return { ...blob, sums }
    })
    return { stored, blobs }
  } catch (cause) {
    throw new BlockError(key, 0, 'checksum', { cause })
  }
}

async function openLossless(
  { blob, size }: { blob: string; size: number },
  read: ReadBlob,
): Promise<Pick<Manifest, 'shards' | 'delta'>> {
  const stored = await readStoredIndex((start, end) => read(blob, start, end), size, tools())
  const index = await openStoredIndex(stored)
  return {
    shards: losslessShards(index),
    delta: { blob, domain: 'stored', index, errors: null },
  }
}

/** The shards that a lossless delta gives back, in path order. */
export function losslessShards({ shards }: LosslessIndex): ManifestShard[] {
  return shards
    .map(({ path, layout }) => ({ path, layout, blob: null }))
    .sort((a, b) => (a.path < b.path ? -1 : 1))
}

/** The header of a safetensors file from its JSON, with the length word. */
export function withLength(json: Uint8Array): Uint8Array {
  const header = new Uint8Array(LENGTH_BYTES + json.length)
  new DataView(header.buffer).setBigUint64(0, BigInt(json.length), true)
  header.set(json, LENGTH_BYTES)
  return header
}

/** The shards of a base, which all have a blob. */
export function storedShards({ shards }: Pick<Manifest, 'shards'>): BaseShard[] {
  return shards.map(({ path, layout, blob }) => {
    if (blob === null) throw new RegistryError('damaged', `shard ${path} has no blob`)
    return { path, layout, blob }
  })
}

/** The blobs of a manifest by key. */
export function sumsByKey(blobs: readonly ManifestBlob[]): Map<string, BlockSums> {
  return new Map(blobs.map(({ key, size, sums }) => [key, { size, sums }]))
}

function sha256(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest()
}
