import type { ErrorFigures } from '../catalog/catalog.ts'
import {
  type BaseShard,
  type DeltaIndex,
  type Domain,
  parseLayout,
  type Shard,
} from '../codec/index.ts'
import { RegistryError } from '../errors.ts'

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
  /** In publication order, by path. */
  readonly shards: readonly ManifestShard[]
  /** Null for a base. */
  readonly delta: ManifestDelta | null
}

interface StoredManifest {
  version: 1
  shards: { path: string; size: number; header: string; blob: string | null }[]
  delta: (Omit<ManifestDelta, 'errors'> & { errors: [string, ErrorFigures][] | null }) | null
}

const LENGTH_BYTES = 8

/** The manifest as JSON bytes. */
export function writeManifest({ shards, delta }: Manifest): Uint8Array {
  const stored: StoredManifest = {
    version: 1,
    shards: shards.map(({ path, layout, blob }) => ({
      path,
      size: layout.size,
      // Strict UTF-8 by the parser's rule, so the text gives back the same bytes.
      header: Buffer.from(layout.header.subarray(LENGTH_BYTES)).toString('utf8'),
      blob,
    })),
    delta: delta && { ...delta, errors: delta.errors && [...delta.errors] },
  }
  return Buffer.from(JSON.stringify(stored))
}

/** @throws RegistryError `storage-failed` for bytes that are no manifest of this version. */
export function parseManifest(bytes: Uint8Array): Manifest {
  try {
    const stored = JSON.parse(Buffer.from(bytes).toString('utf8')) as StoredManifest
    if (stored.version !== 1) throw new Error(`expected version 1, got ${stored.version}`)
    const { delta } = stored
    return {
      shards: stored.shards.map(({ path, size, header, blob }) => ({
        path,
        blob,
        layout: parseLayout(withLength(Buffer.from(header)), size),
      })),
      delta: delta && { ...delta, errors: delta.errors && new Map(delta.errors) },
    }
  } catch (cause) {
    throw new RegistryError('storage-failed', 'a manifest cannot be read', { cause })
  }
}

function withLength(json: Uint8Array): Uint8Array {
  const header = new Uint8Array(LENGTH_BYTES + json.length)
  new DataView(header.buffer).setBigUint64(0, BigInt(json.length), true)
  header.set(json, LENGTH_BYTES)
  return header
}

/** The shards of a base, which all have a blob. */
export function storedShards(manifest: Manifest): BaseShard[] {
  return manifest.shards.map(({ path, layout, blob }) => {
    if (blob === null) throw new RegistryError('storage-failed', `shard ${path} has no blob`)
    return { path, layout, blob }
  })
}
