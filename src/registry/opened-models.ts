import type { Catalog, ModelRecord } from '../catalog/catalog.ts'
import {
  applyLink,
  baseRecipes,
  buildLayout,
  type Dtype,
  type Layout,
  type Recipes,
} from '../codec/index.ts'
import { RegistryError } from '../errors.ts'
import type { BlobStore } from '../storage/blob-store.ts'
import { type Manifest, openManifest, type ReadBlob, storedShards } from './manifest.ts'

/** A model with everything that a plan needs, in memory. */
export interface OpenedModel {
  readonly record: ModelRecord
  readonly manifest: Manifest
  readonly recipes: Recipes
  /** The `dtype=stored` reconstruct stream. */
  readonly layout: Layout
}

/** Models that stay open: a lineage of full depth and some more … */
const MOST_MODELS = 96
/** … and tensors of all of them together: each takes about half a KB, and some models have 100,000. */
const MOST_TENSORS = 500_000

interface Entry {
  readonly opened: Promise<OpenedModel>
  readonly tensors: number
}

/** Opens models; the most recently used stay open. A model never changes, so nothing is ever stale. */
export class OpenedModels {
  readonly #catalog: Catalog
  readonly #blobs: BlobStore
  readonly #entries = new Map<string, Entry>()
  #tensors = 0

  constructor(catalog: Catalog, blobs: BlobStore) {
    this.#catalog = catalog
    this.#blobs = blobs
  }

  /** The model and, on the way, all that it is built on. Rejects with RegistryError. */
  open(record: ModelRecord): Promise<OpenedModel> {
    const { id, tensors } = record
    const known = this.#entries.get(id)
    const opened = known?.opened ?? this.#load(record)
    this.close(id)
    this.#entries.set(id, { opened, tensors })
    this.#tensors += tensors
    for (const oldest of this.#entries.keys()) {
      const fits = this.#entries.size <= MOST_MODELS && this.#tensors <= MOST_TENSORS
      if (fits || oldest === id) break
      this.close(oldest)
    }
    opened.catch(() => this.close(id))
    return opened
  }

  /** Forgets a model. */
  close(id: string): void {
    const entry = this.#entries.get(id)
    if (!entry) return
    this.#entries.delete(id)
    this.#tensors -= entry.tensors
  }

  async #load(record: ModelRecord): Promise<OpenedModel> {
    const read: ReadBlob = (blob, start, end) => this.#blobs.read(blob, { start, end })
    const size = await this.#blobs.size(record.manifest)
    const manifest = await openManifest(await read(record.manifest, 0, size), read)
    const recipes = await this.#recipes(record, manifest)
    return { record, manifest, recipes, layout: reconstructLayout(manifest, recipes) }
  }

  async #recipes(record: ModelRecord, manifest: Manifest): Promise<Recipes> {
    const { delta } = manifest
    if (!delta) return baseRecipes(storedShards(manifest))
    const parent = record.parent === null ? null : await this.#catalog.model(record.parent)
    if (!parent) {
      throw new RegistryError('catalog-failed', `model ${record.id} has lost its parent`)
    }
    return applyLink((await this.open(parent)).recipes, delta)
  }
}

/**
 * The layout of the `dtype=stored` stream: the published file's own where there is one, else one file in the canonical
 * layout with the `__metadata__` of the first shard.
 */
export function reconstructLayout({ shards }: Pick<Manifest, 'shards'>, recipes: Recipes): Layout {
  return shards.length === 1 ? shards[0]!.layout : canonicalLayout(shards, recipes, r => r.dtype)
}

/** One file with all tensors in the canonical layout; `dtypeOf` says what each is cast to. */
export function canonicalLayout(
  shards: Manifest['shards'],
  recipes: Recipes,
  dtypeOf: (recipe: { readonly dtype: Dtype }) => Dtype,
): Layout {
  const tensors = [...recipes.values()].map(recipe => ({
    name: recipe.name,
    dtype: dtypeOf(recipe),
    shape: recipe.shape,
  }))
  return buildLayout(tensors, shards[0]?.layout.metadata ?? null)
}
