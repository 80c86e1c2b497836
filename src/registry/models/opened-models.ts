import type { Catalog } from '../../catalog/catalog.ts'
import type { ModelRecord } from '../../catalog/records.ts'
import type { BlockSums } from '../../codec/base/block-sums.ts'
import { type FloatDtype, isFloat } from '../../codec/base/dtypes.ts'
import { applyLinkSteps, baseRecipesSteps, type Recipes } from '../../codec/plan/recipes.ts'
import type { Layout } from '../../codec/safetensors/layout.ts'
import { RegistryError } from '../../errors.ts'
import { type ByteSource, retriedWhile, withRetries } from '../../workers/byte-source.ts'
import { Semaphore } from '../../workers/semaphore.ts'
import { inTurns } from '../../workers/turns.ts'
import { translateErrors } from '../translate.ts'
import { checkedSource, readChecked } from './checked-reads.ts'
import { canonicalLayout, reconstructLayout } from './layouts.ts'
import { type Manifest, type ManifestHead, storedShards, sumsByKey } from './manifest.ts'
import { openManifest, readManifestHead } from './manifest-bytes.ts'
import { type Layer, OpenBudget, reachOf } from './open-budget.ts'
import { weighLayout, weighModel } from './open-weight.ts'
import { isRotten, isTrue, manifestKey, recordOf } from './true-records.ts'

/** An open model: everything that a plan needs, in memory. */
export interface OpenedModel {
  /** From the manifest, never from the row. */
  readonly record: ModelRecord
  readonly manifest: Manifest
  readonly recipes: Recipes
  /** Checksums of all blobs that the recipes read, of the whole lineage, and of the side files. */
  readonly sums: ReadonlyMap<string, BlockSums>
  /** The `dtype=stored` reconstruct stream. */
  readonly layout: Layout
  /** The memory that everything built on it shares, on top of what it is built on. */
  readonly layer: Layer
  /** Bytes beside its layer: see `OpenWeight`. */
  readonly ownBytes: number
}

/** Most models that stay open: a lineage of full depth and some more. */
const MAX_MODELS = 96
/** Bytes reserved while a model is opened, for each of its tensors and for each byte of its manifest. */
const OPENING_TENSOR_BYTES = 800
const OPENING_MANIFEST_BYTES = 2
/** Models with more tensors are opened one at a time: several could each hold half of the memory that they need, and wait for the rest. */
const LARGE_TENSORS = 20_000

/** A model that is open or being opened. */
interface Entry {
  opened: Promise<OpenedModel>
  /** Null until it is open. */
  model: OpenedModel | null
  /** Bytes counted for it beside its layer. */
  bytes: number
  /** Number of users. While there are any, its memory stays counted even if it is closed. */
  users: number
  /** Layouts of its reconstruct stream cast to a dtype. */
  readonly casts: Map<FloatDtype, Promise<Layout>>
}

/** Opens models. The most recently used stay open within the budget. A model never changes, so nothing is ever stale. */
export class OpenedModels {
  readonly #catalog: Catalog
  readonly #source: ByteSource
  readonly #budget: OpenBudget
  /** By id; the most recently used come last. */
  readonly #entries = new Map<string, Entry>()
  readonly #large = new Semaphore(1)
  readonly #rotten: (id: string) => void

  /**
   * `mostBytes` bounds the memory of open models, as `weighModel` estimates it. `rotten` is called for each model whose row differs from its
   * manifest.
   */
  constructor(
    catalog: Catalog,
    source: ByteSource,
    mostBytes: number,
    rotten: (id: string) => void,
  ) {
    this.#catalog = catalog
    this.#rotten = rotten
    this.#source = source
    this.#budget = new OpenBudget(mostBytes, () => this.#giveUp())
  }

  /** Bytes of all that is open, and set aside. */
  get usedBytes(): number {
    return this.#budget.used
  }

  /** Opens a model and everything that it is built on. Rejects with RegistryError. */
  async open(record: ModelRecord): Promise<OpenedModel> {
    if (record.tensors < LARGE_TENSORS || this.#entries.has(record.id)) return this.#open(record)
    using _turn = await this.#large.take()
    // Awaited here: the turn ends with this block.
    return await this.#open(record)
  }

  /** Keeps a model open and counted until the result is disposed of. */
  hold(model: OpenedModel): Disposable {
    const entry = this.#entryOf(model)
    entry.users++
    return {
      [Symbol.dispose]: () => {
        entry.users--
        const isGone = this.#entries.get(model.record.id) !== entry
        if (entry.users === 0 && isGone) this.#budget.leave(entry.bytes, model.layer)
      },
    }
  }

  /** Reserves memory, on top of `besideBytes` that the caller holds: see `OpenBudget.reserve`. */
  reserve(bytes: number, besideBytes: number, signal: AbortSignal): Promise<Disposable> {
    return this.#budget.reserve(bytes, besideBytes, signal)
  }

  /**
   * Rejects `lineage-too-large` for a model that, with everything that it is built on, could not be opened even alone. `manifestBytes` is the size
   * of its manifest.
   */
  async checkFits(
    { manifest, manifestBytes }: { manifest: Manifest; manifestBytes: number },
    recipes: Recipes,
    parent: OpenedModel | null,
  ): Promise<void> {
    const { own, kept } = await inTurns(weighModel(manifest, recipes, parent?.recipes ?? null))
    const opening = openingBytes(recipes.size, manifestBytes) + (parent?.ownBytes ?? 0)
    this.#budget.check(reachOf(parent?.layer ?? null) + Math.max(own + kept, opening))
  }

  /** The layout of the model's reconstruct stream with float tensors cast to `dtype`; kept while the model is open. */
  castLayout(model: OpenedModel, dtype: FloatDtype): Promise<Layout> {
    const entry = this.#entryOf(model)
    const known = entry.casts.get(dtype)
    if (known) return known
    const cast = this.#cast(model, entry, dtype)
    entry.casts.set(dtype, cast)
    cast.catch(() => entry.casts.delete(dtype))
    return cast
  }

  /** The record of a model from its manifest, in place of its row. Rejects as {@link open}. */
  async truth(row: ModelRecord): Promise<ModelRecord> {
    const key = manifestKey(row)
    const { size } = await this.#catalog.blob(key)
    const head = await withRetries(this.#sourceOf(row.id), async source => {
      const bytes = await source.read({ blob: key, start: 0, end: size }, undefined)
      return readManifestHead(key, bytes)
    }).catch(error => {
      throw translateErrors(error)
    })
    return recordFrom(row, head, { key, size })
  }

  /** Marks the row of a model as damaged. */
  async distrust(id: string): Promise<void> {
    this.#rotten(id)
    await this.#catalog.distrust(id)
  }

  /** Closes a model. */
  close(id: string): void {
    const entry = this.#entries.get(id)
    if (!entry) return
    this.#entries.delete(id)
    if (entry.model && entry.users === 0) this.#budget.leave(entry.bytes, entry.model.layer)
  }

  #open(record: ModelRecord): Promise<OpenedModel> {
    const { id } = record
    const known = this.#entries.get(id)
    if (known) {
      this.#entries.delete(id)
      this.#entries.set(id, known)
      return known.opened
    }
    const opened = this.#load(record)
    const entry = { opened, model: null, bytes: 0, users: 0, casts: new Map() }
    this.#entries.set(id, entry)
    opened.then(
      model => {
        if (this.#entries.get(id) === entry) this.#count(entry, model)
      },
      () => {
        if (this.#entries.get(id) === entry) this.#entries.delete(id)
      },
    )
    return opened
  }

  /** The entry of an open model: a new one if it has been closed since. */
  #entryOf(model: OpenedModel): Entry {
    const { id } = model.record
    const known = this.#entries.get(id)
    if (known?.model === model) return known
    if (known) this.close(id)
    const opened = Promise.resolve(model)
    const entry: Entry = { opened, model: null, bytes: 0, users: 0, casts: new Map() }
    this.#entries.set(id, entry)
    this.#count(entry, model)
    return entry
  }

  #count(entry: Entry, model: OpenedModel): void {
    entry.model = model
    entry.bytes += model.ownBytes
    // It must not be closed to make room for itself.
    entry.users++
    this.#budget.enter(entry.bytes, model.layer)
    while (this.#entries.size > MAX_MODELS && this.#giveUp()) {}
    entry.users--
  }

  /** Closes the least recently used model that has no user; false if all are in use. */
  #giveUp(): boolean {
    for (const [id, { model, users }] of this.#entries) {
      if (!model || users > 0) continue
      this.close(id)
      return true
    }
    return false
  }

  async #cast(model: OpenedModel, entry: Entry, dtype: FloatDtype): Promise<Layout> {
    using _held = this.hold(model)
    const { manifest, recipes } = model
    const layout = await canonicalLayout(manifest.shards, recipes, stored =>
      isFloat(stored) ? dtype : stored,
    )
    const bytes = weighLayout(layout)
    entry.bytes += bytes
    this.#budget.enter(bytes, null)
    return layout
  }

  /** Closes all models. */
  closeAll(): void {
    for (const id of this.#entries.keys()) this.close(id)
  }

  async #load(record: ModelRecord): Promise<OpenedModel> {
    try {
      return await this.#read(record)
    } catch (error) {
      if (await this.#catalog.hasModel(record.id)) throw error
      throw new RegistryError('model-not-found', `model ${record.id} was deleted`, { cause: error })
    }
  }

  /** Opens the parent first, so that a long lineage never has more than two manifests in memory. */
  async #read(row: ModelRecord): Promise<OpenedModel> {
    const known = isRotten(row) ? await this.truth(row) : row
    const { id, tensors } = known
    using held = new DisposableStack()
    const parent = known.kind === 'delta' ? await this.#parentOf(known) : null
    if (parent) held.use(this.hold(parent))
    const key = manifestKey(known)
    const { size } = await this.#catalog.blob(key)
    held.use(await this.#budget.reserve(openingBytes(tensors, size)))
    const manifest = await this.#manifest(id, key, size)
    const record = recordFrom(known, manifest, { key, size })
    if (!isTrue(known, record)) return this.#readAnew(id)
    const recipes = await inTurns<Recipes>(
      parent && manifest.delta
        ? applyLinkSteps(parent.recipes, manifest.delta)
        : baseRecipesSteps(storedShards(manifest)),
    )
    const sums = new Map([...(parent?.sums ?? []), ...sumsByKey(manifest.blobs)])
    const layout = await reconstructLayout(manifest, recipes)
    const { own, kept } = await inTurns(weighModel(manifest, recipes, parent?.recipes ?? null))
    const layer = { bytes: kept, parent: parent?.layer ?? null }
    return { record, manifest, recipes, sums, layout, layer, ownBytes: own }
  }

  /** Reads a model again whose row differs from its manifest. */
  async #readAnew(id: string): Promise<OpenedModel> {
    await this.distrust(id)
    const row = await this.#catalog.model(id)
    if (row) return this.#read(row)
    throw new RegistryError('model-not-found', `model ${id} was deleted`)
  }

  async #manifest(id: string, key: string, size: number): Promise<Manifest> {
    return withRetries(this.#sourceOf(id), async source => {
      const bytes = await source.read({ blob: key, start: 0, end: size }, undefined)
      return openManifest(key, bytes, blobs => {
        const checked = checkedSource(source, sumsByKey(blobs))
        return (blob, start, end) => readChecked(checked, { blob, start, end })
      })
    })
  }

  /** Blobs that are missing because the model was deleted meanwhile are not damage. */
  #sourceOf(id: string): ByteSource {
    return retriedWhile(this.#source, () => this.#catalog.hasModel(id))
  }

  /** What a model is stored against: as yet always the parent of its lineage. */
  async #parentOf({ id, parent }: ModelRecord): Promise<OpenedModel> {
    const record = parent === null ? null : await this.#catalog.model(parent)
    if (!record) throw new RegistryError('catalog-failed', `model ${id} has lost its parent`)
    return this.#open(record)
  }
}

/** Bytes that opening a model needs temporarily. */
function openingBytes(tensors: number, manifestBytes: number): number {
  return tensors * OPENING_TENSOR_BYTES + manifestBytes * OPENING_MANIFEST_BYTES
}

/** @throws RegistryError `damaged` for the manifest of another model */
function recordFrom(
  row: ModelRecord,
  head: ManifestHead,
  manifest: { key: string; size: number },
): ModelRecord {
  const { id } = head.model
  if (id === row.id) return recordOf(row, head, manifest)
  throw new RegistryError('damaged', `${manifest.key} is the manifest of ${id}, not of ${row.id}`)
}
