/** The words of the catalog: what its rows say. Times are ISO 8601 in UTC, sizes bytes, hashes lowercase hex. */
import type { Strategy } from '../codec/base/strategies.ts'

/** One row of `models` with its files. */
export interface ModelRecord {
  readonly id: string
  readonly name: string
  readonly revision: string
  readonly kind: 'base' | 'delta'
  readonly strategy: Strategy
  readonly parent: string | null
  readonly tensors: number
  readonly parameters: number
  readonly dtypes: readonly string[]
  /** Length and SHA-256 of the `dtype=stored` reconstruct stream. */
  readonly size: number
  readonly sha256: string
  /** Bytes of all blobs that the model refers to. */
  readonly storedSize: number
  /** The hashes that a delta may name this model by; `float32` is null where a dtype cannot be widened. */
  readonly hashes: {
    readonly stored: string
    readonly shardOrder: string
    readonly float32: string | null
  }
  /** SHA-256 over names and shapes in name order: equal for models that the same deltas could fit. */
  readonly signature: string
  /** All files; of a record that was read, none if there are more than {@link MAX_LISTED_FILES}. */
  readonly files: readonly FileRecord[]
  readonly filesTotal: number
  /** Key of the blob that holds the manifest: layouts and, for a delta, its index. */
  readonly manifest: string
  /** Key of the `.wdelta` blob; null for a base. */
  readonly delta: string | null
  readonly error: ErrorFigures | null
  readonly damaged: Damage | null
  readonly message: string
  readonly createdAt: string
}

/** Most files that a record has when it is read. */
export const MAX_LISTED_FILES = 100

/** A file that a model serves. `blob` is null where its bytes are reconstructed from the lineage. */
export interface FileRecord {
  readonly path: string
  readonly size: number
  readonly sha256: string
  readonly blob: string | null
}

/** Error of a lossy delta against what was uploaded, over finite values. */
export interface ErrorFigures {
  readonly nmse: number
  readonly maxAbs: number
}

/** The first bad byte seen in the stored bytes that a model needs. */
export interface Damage {
  /**
   * The model's name for the damaged blob: the path of a file, the name under which the delta is downloaded, or `MANIFEST_FILE`. `CATALOG_FILE` if
   * the model's row has changed since it was inserted.
   */
  readonly file: string
  readonly offset: number
  readonly at: string
}

/** A committed blob that the catalog knows. Content is known by SHA-256, stored under a random key. */
export interface BlobRecord {
  readonly key: string
  readonly sha256: string
  readonly size: number
}

/** A blob in which a bad block was seen. */
export interface DamagedBlob extends BlobRecord {
  /** First byte of the bad block that was seen first. */
  readonly offset: number
  readonly at: string
}

export interface TokenRecord {
  readonly id: string
  readonly name: string
  readonly scope: Scope
  /** SHA-256 of the whole token. */
  readonly secretHash: string
  readonly createdAt: string
  readonly expiresAt: string | null
}

/** What a token permits; each scope includes the ones before it. */
export type Scope = 'read' | 'write' | 'admin'

export interface Stats {
  readonly models: number
  readonly bases: number
  readonly deltas: number
  readonly logicalBytes: number
  readonly storedBytes: number
}
