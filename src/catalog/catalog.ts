import type {
  BlobRecord,
  DamagedBlob,
  FileRecord,
  ModelRecord,
  Stats,
  TokenRecord,
} from './records.ts'

/** Which part of a list: `limit` records (1..1000) after the page whose `next` is `cursor`. */
export interface PageQuery {
  readonly limit: number
  readonly cursor?: string
}

export interface ModelQuery extends PageQuery {
  readonly name?: string
  readonly revision?: string
  readonly parent?: string
}

/** A page of models. It ends early once its records exceed `MAX_PAGE_BYTES`, but has at least one if any are left. */
export interface ModelRecords {
  readonly models: ModelRecord[]
  /** The `cursor` of the page that follows; null on the last one. */
  readonly next: string | null
}

/** What is known of the parent of a delta. */
export interface CandidateQuery {
  readonly hash: string
  /** The tensors of the delta, where all of them must be the parent's: it has these and no others, or more. */
  readonly named: { readonly signature: string; readonly count: number } | null
}

/**
 * Models, lineage, revisions, blobs and tokens. Every write is one transaction, durable when its promise
 * resolves. Rejects with RegistryError: the code that a method names, `catalog-failed` for anything else
 * (`storage-full` for a full disk). A failed write is not seen, but a crash may bring it back until another write has resolved.
 */
export interface Catalog extends CatalogModels, CatalogBlobs, CatalogTokens {
  /** The identity of this catalog, 32 hex digits. The store of its blobs is marked with it. */
  identity(): Promise<string>
  /** Replaces the identity, with that of a lost catalog that this one stands in for. */
  setIdentity(identity: string): Promise<void>
  /** Totals over all models. Constant time. */
  stats(): Promise<Stats>
  /** Writes a consistent copy of the catalog to `path`. */
  backup(path: string): Promise<void>
  close(): Promise<void>
}

/** Models, their files, revisions and lineage. */
export interface CatalogModels {
  /**
   * Makes a model visible: the row, its files, its references to `blobs` (all blobs that it needs: manifest, delta,
   * files; unknown ones are added) and its revision, which moves to it unless it points at a newer one. `damaged` and
   * `filesTotal` follow from the rest.
   * Rejects `parent-deleted` if `model.parent` is gone.
   */
  insertModel(model: ModelRecord, blobs: readonly BlobRecord[]): Promise<void>
  /**
   * Null if there is no such id. `damaged` covers all blobs that the model needs, also through the models that it is a delta against. A row that has
   * changed since it was inserted is damage too; its other values are not to be trusted.
   */
  model(id: string): Promise<ModelRecord | null>
  hasModel(id: string): Promise<boolean>
  /** All files of a model, in order. Rejects `damaged` if they are not those that were inserted. */
  files(id: string): Promise<FileRecord[]>
  /** Marks the row of a model, which differs from its manifest, as one that has changed since it was inserted. */
  distrust(id: string): Promise<void>
  /** The model that a revision points at; null if there is none. Rejects `catalog-failed` for one of another name or revision. */
  resolve(name: string, revision: string): Promise<ModelRecord | null>
  /** Newest first. Rejects `bad-request` for a cursor it did not make. */
  list(query: ModelQuery): Promise<ModelRecords>
  /**
   * From the base to this model, following parents of deltas; the parent of a `whole` model, while it lives, is shown too. Rejects as `list`, and
   * `catalog-failed` if the parents form a circle.
   */
  lineage(id: string, page: PageQuery): Promise<ModelRecords>
  /** Deltas that the bytes of a model pass through: 0 for a base, 1 for a delta against one. */
  depth(id: string): Promise<number>
  /** Models one of whose hashes is `hash`, newest first, at most `limit`, which is 1000 if not given. */
  byHash(hash: string, limit?: number): Promise<ModelRecord[]>
  /**
   * The models of {@link byHash} that may be the parent of a delta, newest first, at most `limit`; of equal ones only the newest. Looks at the newest
   * 2,000 of each hash.
   */
  candidates(claim: CandidateQuery, limit: number): Promise<ModelRecord[]>
  /** Models of this signature, newest first, at most `limit`. */
  bySignature(signature: string, limit: number): Promise<ModelRecord[]>
  /** Models whose manifest's key is between two others (exclusive), in the order of those keys, at most `limit`. */
  modelsByManifest(range: { after: string; before: string; limit: number }): Promise<ModelRecord[]>
  /** Models that refer to a blob, oldest first, at most `limit`. */
  modelsOf(key: string, limit: number): Promise<ModelRecord[]>
  /**
   * Deletes a model and the revisions that point at it. Rejects `model-not-found`, or `has-children` with
   * `details.children` (ids, at most 1000, and `childrenTotal`) if deltas name it as parent; bases that name it get parent null.
   */
  deleteModel(id: string): Promise<void>
  /** Replaces a model's manifest; its stored size changes by the difference. */
  replaceManifest(id: string, manifest: BlobRecord): Promise<void>
  /** Removes a revision that points at a model which is older than `before` (ISO 8601); any other stays. */
  dropRevision(name: string, revision: string, before: string): Promise<void>
}

/** Blobs, and what is known of their damage. */
export interface CatalogBlobs {
  /** A known blob with this content that is not damaged; null if there is none. */
  findBlob(sha256: string, size: number): Promise<BlobRecord | null>
  /** Whether anything in the catalog names a blob: its own row, a model, or a file. */
  hasBlob(key: string): Promise<boolean>
  /** Keys of known blobs after `after`, in their order, at most `limit`. */
  blobKeys(after: string, limit: number): Promise<string[]>
  /** A known blob. Rejects `blob-missing`. */
  blob(key: string): Promise<BlobRecord>
  /** A known blob, `key` itself among them, that has the content of `key` and is not damaged; null if there is none. */
  copyOf(key: string): Promise<BlobRecord | null>
  /**
   * Marks a blob as damaged, or with null as sound again; the `damaged` of all models that need it follows. A blob that is marked already keeps its
   * mark.
   */
  setBlobDamage(key: string, damage: { offset: number; at: string } | null): Promise<void>
  damagedBlobs(): Promise<DamagedBlob[]>
  /** Known blobs that no model refers to, by key, at most `limit` of those after the key `after`. */
  unreferencedBlobs(page: { after: string; limit: number }): Promise<BlobRecord[]>
  /** Forgets those of `keys` that no model refers to, and returns them: only these may be deleted from the store. */
  forgetBlobs(keys: readonly string[]): Promise<string[]>
}

export interface CatalogTokens {
  insertToken(token: TokenRecord): Promise<void>
  findToken(id: string): Promise<TokenRecord | null>
  /** Newest first. Rejects as `list`. */
  listTokens(page: PageQuery): Promise<{ tokens: TokenRecord[]; next: string | null }>
  /** Rejects `token-not-found`. */
  deleteToken(id: string): Promise<void>
}
