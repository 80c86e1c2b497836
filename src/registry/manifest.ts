import type { ErrorFigures } from '../catalog/catalog.ts'
import {
  type BaseShard,
  type DeltaIndex,
  type DeltaIndexV1,
  type Domain,
  type LosslessIndex,
  parseLayout,
  readIndex,
  type Shard,
} from '../codec/index.ts'
import { RegistryError } from '../errors.ts'
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

/** What a plan needs of one model beside its blobs: kept as a blob of its own, so that the catalog stays small. */
export interface Manifest {
  /** Of the tensors, whatever the shards: see `codec/FORMAT.md`. Null where it was not taken when the model was published. */
  readonly identity: string | null
  /** In publication order, by path. */
  readonly shards: readonly ManifestShard[]
  /** Null for a base. */
  readonly delta: ManifestDelta | null
}

/** Version 1 had no identity. */
interface StoredManifest {
  version: 1 | 2
  identity?: string | null
  /** Empty beside a lossless delta, which names them itself. */
  shards: { path: string; size: number; header: string; blob: string | null }[]
  delta:
    | null
    | { format: 2; blob: string; size: number }
    | (Omit<ManifestDelta, 'errors' | 'index'> & {
        format?: undefined
        index: DeltaIndexV1
        errors: [string, ErrorFigures][] | null
      })
}

const LENGTH_BYTES = 8

/** The manifest as JSON bytes. */
export function writeManifest({ identity, shards, delta }: Manifest): Uint8Array {
  const named = delta?.index.format === 2 ? [] : shards
  const stored: StoredManifest = {
    version: 2,
    identity,
    shards: named.map(({ path, layout, blob }) => ({
      path,
      size: layout.size,
      // Strict UTF-8 by the parser's rule, so the text gives back the same bytes.
      header: Buffer.from(layout.header.subarray(LENGTH_BYTES)).toString('utf8'),
      blob,
    })),
    delta: delta && storedDelta(delta),
  }
  return Buffer.from(JSON.stringify(stored))
}

function storedDelta({ blob, domain, index, errors }: ManifestDelta): StoredManifest['delta'] {
  if (index.format === 2) return { format: 2, blob, size: index.size }
  return { blob, domain, index, errors: errors && [...errors] }
}

/** Reads bytes `[start, end)` of a blob. */
export type ReadBlob = (blob: string, start: number, end: number) => Promise<Uint8Array>

/** The manifest from its bytes, and from the delta where that has an index of its own. Rejects `storage-failed` for bytes that are none. */
export async function openManifest(bytes: Uint8Array, read: ReadBlob): Promise<Manifest> {
  try {
    const stored = JSON.parse(Buffer.from(bytes).toString('utf8')) as StoredManifest
    const { version, identity = null, delta } = stored
    if (version !== 1 && version !== 2) throw new Error(`expected version 1 or 2, got ${version}`)
    if (delta?.format === 2) return { identity, ...(await openLossless(delta, read)) }
    return {
      identity,
      shards: stored.shards.map(({ path, size, header, blob }) => ({
        path,
        blob,
        layout: parseLayout(withLength(Buffer.from(header)), size),
      })),
      delta: delta && { ...delta, errors: delta.errors && new Map(delta.errors) },
    }
  } catch (cause) {
    if (cause instanceof RegistryError) throw cause
    throw new RegistryError('storage-failed', 'a manifest cannot be read', { cause })
  }
}

async function openLossless(
  { blob, size }: { blob: string; size: number },
  read: ReadBlob,
): Promise<Omit<Manifest, 'identity'>> {
  const index = await readIndex((start, end) => read(blob, start, end), size, tools())
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

function withLength(json: Uint8Array): Uint8Array {
  const header = new Uint8Array(LENGTH_BYTES + json.length)
  new DataView(header.buffer).setBigUint64(0, BigInt(json.length), true)
  header.set(json, LENGTH_BYTES)
  return header
}

/** The shards of a base, which all have a blob. */
export function storedShards({ shards }: Pick<Manifest, 'shards'>): BaseShard[] {
  return shards.map(({ path, layout, blob }) => {
    if (blob === null) throw new RegistryError('storage-failed', `shard ${path} has no blob`)
    return { path, layout, blob }
  })
}
