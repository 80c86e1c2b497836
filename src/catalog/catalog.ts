import type { Strategy } from '../codec/base/strategies.ts'

/** A token's power; each includes the ones before it. */
export type Scope = 'read' | 'write' | 'admin'

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
   * The name of the blob in the model that has it: a path, the name under which the delta is downloaded, or `MANIFEST_FILE`; `CATALOG_FILE` where
   * the row is not what was inserted.
   */
  readonly file: string
  readonly offset: number
  readonly at: string
}

/** A record that was read has its files up to so many; of a model with more it has none: see {@link Catalog.files}. */
export const MAX_LISTED_FILES = 100

/** One row of `models` with its files. Times are ISO 8601 in UTC, sizes bytes, hashes lowercase hex. */
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
  readonly storedSize: number
  /** The hashes that a delta may name this model by; `float32` is null where a dtype cannot be widened. */
  readonly hashes: {
    readonly stored: string
    readonly shardOrder: string
    readonly float32: string | null
  }
  /** SHA-256 over names and shapes in name order: equal for models that a delta could fit. */
  readonly signature: string
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

/** A blob of which a bad block was seen. */
export interface DamagedBlob extends BlobRecord {
  /** First byte of the bad block that was seen first. */
  readonly offset: number
  readonly at: string
}

/** A committed blob that the catalog knows. Content is known by SHA-256, stored under a random key. */
export interface BlobRecord {
  readonly key: string
  readonly sha256: string
  readonly size: number
}

export interface TokenRecord {
  readonly id: string
  readonly name: string
  readonly scope: Scope
  /** SHA-256 of the whole token, hex. */
  readonly secretHash: string
  readonly createdAt: string
  readonly expiresAt: string | null
}

export interface ModelQuery {
  readonly name?: string
  readonly revision?: string
  readonly parent?: string
  /** 1..1000 */
  readonly limit: number
  /** `next` of the page before. */
  readonly cursor?: string
}

/** Some of many models. A page ends early where its records come to more than `MAX_PAGE_BYTES`; the first one is always in it. */
export interface ModelRecords {
  readonly models: ModelRecord[]
  /** The `cursor` of the page that follows; null on the last one. */
  readonly next: string | null
}

/** Bytes of the records of one page, as they are shown, about. */
export const MAX_PAGE_BYTES = 2 * 1024 * 1024

/** What is known of the parent of a delta. */
export interface CandidateQuery {
  readonly hash: string
  /** The tensors of the delta, where all of them must be the parent's: it has these and no others, or more. */
  readonly named: { readonly signature: string; readonly count: number } | null
}

export interface Stats {
  readonly models: number
  readonly bases: number
  readonly deltas: number
  readonly logicalBytes: number
  readonly storedBytes: number
}

/**
 * Models, lineage, revisions, blobs and tokens. Every write is one transaction, durable when its promise
 * resolves. Rejects with RegistryError: the code that a method names, `catalog-failed` for anything else
 * (`storage-full` for a full disk). A write that failed is not seen, but a crash may bring it back until another write has resolved.
 */
export interface Catalog {
  /** 32 hex digits: which catalog this is. The store of its blobs is marked with it. */
  identity(): Promise<string>
  /** Takes the place of the catalog with this identity. */
  setIdentity(identity: string): Promise<void>
  /**
   * Makes a model visible: the row, its files, its references to `blobs` (all blobs that it needs: manifest, delta,
   * files; those the catalog does not know yet are added) and its revision, which moves to it unless it points at a newer one. `damaged` and
   * `filesTotal` follow from the rest.
   * Rejects `parent-deleted` if `model.parent` is gone.
   */
  insertModel(model: ModelRecord, blobs: readonly BlobRecord[]): Promise<void>
  /**
   * null where there is no such id. `damaged` says what is known of the blobs that this model needs, those of the models that it is a delta against
   * among them; a row that is not what was inserted is damage too, and what else it says is not to be believed.
   */
  model(id: string): Promise<ModelRecord | null>
  hasModel(id: string): Promise<boolean>
  /** All files of a model, in order. Rejects `damaged` if they are not those that were inserted. */
  files(id: string): Promise<FileRecord[]>
  /** The row of a model differs from its manifest: from now on it counts as one that is not what was inserted. */
  distrust(id: string): Promise<void>
  /** The model that a revision points at; null where there is none. Rejects `catalog-failed` for one of another name or revision. */
  resolve(name: string, revision: string): Promise<ModelRecord | null>
  /** Newest first. Rejects `bad-request` for a cursor it did not make. */
  list(query: ModelQuery): Promise<ModelRecords>
  /**
   * From the base to this model, following parents of deltas; the parent of a `whole` model, while it lives, is shown too. Rejects as `list`, and
   * `catalog-failed` for parents that go round in a circle.
   */
  lineage(id: string, page: Pick<ModelQuery, 'limit' | 'cursor'>): Promise<ModelRecords>
  /** Deltas that the bytes of a model pass through: 0 for a base, 1 for a delta against one. */
  depth(id: string): Promise<number>
  /** Models one of whose hashes is `hash`, newest first, at most `limit`, or 1000 where it is not given. */
  byHash(hash: string, limit?: number): Promise<ModelRecord[]>
  /**
   * The models of {@link byHash} that may be the parent of a delta, of equal ones the newest only, newest first, at most `limit`. The newest 2,000 of
   * each hash are looked at.
   */
  candidates(claim: CandidateQuery, limit: number): Promise<ModelRecord[]>
  /** Models of this signature, newest first, at most `limit`. */
  bySignature(signature: string, limit: number): Promise<ModelRecord[]>
  /**
   * Deletes a model and the revisions that point at it. Rejects `model-not-found`, or `has-children` with
   * `details.children` (ids, at most 1000, and `childrenTotal`) if deltas name it as parent; bases that name it get parent null.
   */
  deleteModel(id: string): Promise<void>
  /** Puts another manifest in place of a model's; its stored size changes by the difference. */
  replaceManifest(id: string, manifest: BlobRecord): Promise<void>
  /** Removes a revision that points at a model which is older than `before` (ISO 8601); any other stays. */
  dropRevision(name: string, revision: string, before: string): Promise<void>
  /** As quick with any number of models. */
  stats(): Promise<Stats>
  /** A known blob with this content that is not damaged; null where there is none. */
  findBlob(sha256: string, size: number): Promise<BlobRecord | null>
  /** Whether anything in the catalog names a blob: its own row, a model, or a file. */
  hasBlob(key: string): Promise<boolean>
  /** Keys of known blobs after `after`, in their order, at most `limit`. */
  blobKeys(after: string, limit: number): Promise<string[]>
  /** A known blob. Rejects `blob-missing`. */
  blob(key: string): Promise<BlobRecord>
  /** A known blob of the same content as `key`, `key` itself among them, that is not damaged; null where there is none. */
  copyOf(key: string): Promise<BlobRecord | null>
  /** Models whose manifest has a key between two others, in the order of those keys, at most `limit`. */
  modelsByManifest(range: { after: string; before: string; limit: number }): Promise<ModelRecord[]>
  /** Models that refer to a blob, oldest first, at most `limit`. */
  modelsOf(key: string, limit: number): Promise<ModelRecord[]>
  /** Marks a blob as damaged, or with null as sound again; the `damaged` of all models that need it follows. A mark that is there stays. */
  setBlobDamage(key: string, damage: { offset: number; at: string } | null): Promise<void>
  damagedBlobs(): Promise<DamagedBlob[]>
  /** Known blobs that no model refers to, by key, at most `limit` of those after the key `after`. */
  unreferencedBlobs(page: { after: string; limit: number }): Promise<BlobRecord[]>
  /** Forgets those of `keys` that no model refers to, and returns them: only these may be deleted from the store. */
  forgetBlobs(keys: readonly string[]): Promise<string[]>
  insertToken(token: TokenRecord): Promise<void>
  findToken(id: string): Promise<TokenRecord | null>
  /** Newest first. Rejects as `list`. */
  listTokens(
    page: Pick<ModelQuery, 'limit' | 'cursor'>,
  ): Promise<{ tokens: TokenRecord[]; next: string | null }>
  /** Rejects `token-not-found`. */
  deleteToken(id: string): Promise<void>
  /** Writes a consistent copy of the catalog to `path`. */
  backup(path: string): Promise<void>
  close(): Promise<void>
}
