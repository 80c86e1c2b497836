import type { Damage, ErrorFigures, Scope } from '../catalog/records.ts'
import { castOf, type FloatDtype, OUTPUT_DTYPES } from '../codec/base/dtypes.ts'
import type { ByteRange } from '../codec/base/ranges.ts'
import { STRATEGIES, type Strategy } from '../codec/base/strategies.ts'
import type { EncodingUse } from '../codec/wdelta/v2/storage.ts'
import type { CacheFigures } from '../storage/near-store.ts'

export type { CacheFigures, Scope }
export { castOf, OUTPUT_DTYPES, STRATEGIES }

/** Pattern of a model's id. No revision may look like one. */
export const MODEL_ID = '[0-9a-f]{40}'
const ID = new RegExp(`^${MODEL_ID}$`)

/** Whether a ref is a model's id, not a name. */
export function isModelId(ref: string): boolean {
  return ID.test(ref)
}

/** A model as the REST API shows it: Model of `openapi.yaml`. */
export interface Model {
  readonly id: string
  readonly name: string
  readonly revision: string
  readonly kind: 'base' | 'delta'
  readonly strategy: Strategy
  readonly parent: string | null
  readonly tensors: number
  readonly parameters: number
  readonly dtypes: readonly string[]
  readonly size: number
  readonly storedSize: number
  readonly sha256: string
  readonly hashes: { readonly stored: string; readonly float32: string | null }
  readonly files: readonly {
    readonly path: string
    readonly size: number
    readonly sha256: string
  }[]
  readonly filesTotal: number
  readonly error: ErrorFigures | null
  readonly damaged: Damage | null
  readonly message: string
  readonly createdAt: string
}

/** A model in a list, without `files` if there are more than 100. */
export type ListedModel = Omit<Model, 'files'> & Partial<Pick<Model, 'files'>>

export interface ModelPage {
  readonly models: readonly ListedModel[]
  readonly next: string | null
}

export interface LineagePage {
  readonly lineage: readonly ListedModel[]
  readonly next: string | null
}

/** Which part of a list: `cursor` is the `next` of the page before. */
export interface PageQuery {
  /** 1..1000 */
  readonly limit: number
  readonly cursor?: string | undefined
}

export interface TensorInfo {
  readonly name: string
  readonly dtype: string
  readonly shape: readonly number[]
  /** Bytes of the tensor as stored dtype. */
  readonly size: number
}

export interface InspectedTensor {
  readonly name: string
  readonly shape: readonly number[]
  readonly dtype: string
  readonly strategy: string
  readonly storedBytes: number
  readonly error: ErrorFigures | null
  /** NaN and infinite values that a lossy delta keeps exactly. */
  readonly nonFinite: number
  /** Of a lossless delta: the tensor of the parent that predicts this one, and what its frames are. */
  readonly source?: string | null
  readonly encodings?: readonly EncodingUse[]
}

export interface Inspection {
  readonly id: string
  readonly format: 1 | 2
  readonly strategy: string
  readonly parentHash: string
  readonly storedSize: number
  readonly tensors: readonly InspectedTensor[]
  /** Of a lossless delta. */
  readonly parentIdentity?: string
  readonly encodings?: readonly EncodingUse[]
}

/** A file as it arrives. The body must be consumed or returned before the next part is asked for. */
export interface UploadPart {
  /** `file` or `delta`: the name of the form field. */
  readonly field: string
  /** The part's filename: its path in the model. */
  readonly path: string
  readonly body: AsyncIterable<Uint8Array>
}

interface PublishOptions {
  /** `namespace/name` */
  readonly name: string
  readonly revision: string
  readonly message: string
  /** A model's id or `namespace/name[@revision]`. */
  readonly parent?: string | undefined
  /**
   * Called once the model is proven, before anything of it is visible, and again right before its row; a rejection refuses the publication. An
   * upload may take hours, and its sender may lose the right to publish meanwhile.
   */
  readonly authorized?: (() => Promise<void>) | undefined
}

export interface PublishFilesOptions extends PublishOptions {
  /** Undefined: `whole` without a parent, `lossless` with one. */
  readonly strategy?: Strategy | undefined
  /** int4: 0..1, the reference's default is 0.01. */
  readonly outlierFraction?: number | undefined
  /** sparse: [0, 1), the reference's default is 0.9. */
  readonly sparsity?: number | undefined
}

export type PublishDeltaOptions = PublishOptions

/** Bytes that can be asked for in ranges. Length and ETag are known before a byte is read. */
export interface Content {
  readonly size: number
  /** Strong ETag, without its quotes. */
  readonly etag: string
  /** Hex SHA-256 of the whole, where it is known. */
  readonly sha256: string | null
  readonly mediaType: string
  /** File name for Content-Disposition. */
  readonly filename: string
  /**
   * Streams bytes `[start, end)`: exactly that many, or it throws RegistryError. A chunk is valid until the next one is given, the last one as
   * long as it is wanted. Nothing is read before the first `next()`; returning early or aborting stops all reads and frees the workers.
   */
  open(range: ByteRange, signal: AbortSignal): AsyncIterable<Uint8Array>
}

export interface TensorContent extends Content {
  readonly dtype: string
  readonly shape: readonly number[]
}

export interface Token {
  readonly id: string
  readonly name: string
  readonly scope: Scope
  readonly createdAt: string
  readonly expiresAt: string | null
}

export interface SweepReport {
  readonly dryRun: boolean
  /** The first 1000. */
  readonly deleted: readonly { readonly key: string; readonly size: number }[]
  readonly deletedTotal: number
  /** Of all. */
  readonly bytes: number
}

/** Bad bytes of a model: `[offset, offset + bytes)` of what `file` is stored in. */
export interface ScrubFinding {
  readonly model: string
  readonly name: string
  readonly revision: string
  /**
   * The path of a file, the name under which a client downloads the delta, or `manifest`; `registry.sqlite` where the row of the model in the
   * catalog is not what its manifest says.
   */
  readonly file: string
  /** The first 100 tensors that have bytes there; none where a header, an index or a side file is bad. */
  readonly tensors: readonly string[]
  readonly offset: number
  readonly bytes: number
  readonly why: 'checksum' | 'short' | 'missing' | 'unreadable'
  /** The key in the blob store; that of the manifest for a row. */
  readonly blob: string
}

/** A copy of the catalog as an SQLite file. To be disposed of, read or not. */
export interface Backup extends Content, AsyncDisposable {}

export interface ScrubReport {
  readonly blobs: number
  readonly bytes: number
  /** The first 1000. */
  readonly damaged: readonly ScrubFinding[]
  readonly damagedTotal: number
  /** Models that were marked as damaged and that are sound: the first 1000. */
  readonly cleared: readonly string[]
  readonly clearedTotal: number
}

/** What is published, and reading it. `ref` is a model's id (40 lowercase hex digits), `namespace/name` or `namespace/name@revision`. */
export interface Models {
  /** One model with all of its files. */
  find(ref: string): Promise<Model>
  /** Newest first. A page has at most `limit` models, and may have fewer although more follow: `next` tells. */
  list(
    query: PageQuery & {
      readonly name?: string | undefined
      readonly revision?: string | undefined
      /** The id of a model. */
      readonly parent?: string | undefined
    },
  ): Promise<ModelPage>
  /** From the base to the model, in pages as those of `list`. */
  lineage(ref: string, page: PageQuery): Promise<LineagePage>
  /** Models whose parent this is, as `list` has them. */
  children(ref: string, page: PageQuery): Promise<ModelPage>
  /** Rejects `has-children` while deltas name the model as their parent. */
  remove(ref: string): Promise<void>
  tensors(ref: string): Promise<TensorInfo[]>
  inspect(ref: string): Promise<Inspection>
  /** `dtype` undefined is `stored`. */
  openReconstruct(ref: string, dtype?: FloatDtype): Promise<Content>
  openFile(ref: string, path: string): Promise<Content>
  openTensor(ref: string, name: string): Promise<TensorContent>
  openDelta(ref: string): Promise<Content>
  stats(): Promise<Stats>
}

/** Making models. Each resolves once the model is durable, visible and proven to reconstruct. */
export interface Publish {
  /** `POST /models`. */
  files(
    options: PublishFilesOptions,
    parts: AsyncIterable<UploadPart>,
    signal: AbortSignal,
  ): Promise<Model>
  /** `POST /deltas`. Rejects as soon as the delta's header shows a fault, before the rest of the body is read. */
  delta(
    options: PublishDeltaOptions,
    parts: AsyncIterable<UploadPart>,
    signal: AbortSignal,
  ): Promise<Model>
}

/** Keeping the registry well. */
export interface Care {
  sweep(options: { dryRun: boolean }): Promise<SweepReport>
  /** Reads and checks everything; see `ScrubReport`. `bytesPerSecond` undefined: as fast as it goes. */
  scrub(options: { signal: AbortSignal; bytesPerSecond?: number | undefined }): Promise<ScrubReport>
  /** A consistent copy of the catalog as it is now. */
  backup(): Promise<Backup>
  /**
   * Drops caches and pooled memory and collects garbage; the next requests are slower. Requests under way keep what they use.
   */
  trim(): Promise<void>
  /** Rejects if the catalog or the blob store do not answer, or another registry has taken over the store. */
  ready(): Promise<void>
}

/** Who may come in. */
export interface Tokens {
  create(options: {
    name: string
    scope: Scope
    expiresAt?: string | undefined
  }): Promise<Token & { token: string }>
  list(page: PageQuery): Promise<{ tokens: Token[]; next: string | null }>
  revoke(id: string): Promise<void>
  /** The token's scope and id, or null if it is unknown, expired or malformed. */
  authenticate(token: string): Promise<{ id: string; scope: Scope } | null>
}

export interface Stats {
  readonly models: number
  readonly bases: number
  readonly deltas: number
  readonly logicalBytes: number
  readonly storedBytes: number
  readonly savedBytes: number
}

/** What the process has done and has under way, for its metrics and its upkeep. */
export interface Figures {
  /** Bad blocks read since the start; one counts each time it is read. */
  readonly badBlocks: number
  /** Tasks that worker threads run, or that wait for a thread. */
  readonly tasks: number
  /** Cache statistics; null for a store without a cache. */
  readonly cache: CacheFigures | null
  /** Bytes of pooled buffers beyond what a few streams need. */
  readonly spareBytes: number
}

/** The domain: all that HTTP and tests see. Every promise rejects with RegistryError and nothing else. */
export interface Registry {
  readonly models: Models
  readonly publish: Publish
  readonly care: Care
  readonly tokens: Tokens
  /** As they are now. */
  figures(): Figures
  /** Lets another registry use the store; catalog, store and pool stay open. Nothing is published, deleted or swept any more. */
  close(): Promise<void>
}
