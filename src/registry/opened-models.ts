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
import { type Manifest, parseManifest, storedShards } from './manifest.ts'

/** A model with everything that a plan needs, in memory. */
export interface OpenedModel {
  readonly record: ModelRecord
  readonly manifest: Manifest
  readonly recipes: Recipes
  /** The `dtype=stored` reconstruct stream. */
  readonly layout: Layout
}

/** Models that stay open: a lineage of full depth and some more. */
const KEPT = 96

/** Opens models; the most recently used stay open. A model never changes, so nothing is ever stale. */
export class OpenedModels {
  readonly #catalog: Catalog
  readonly #blobs: BlobStore
  readonly #opened = new Map<string, Promise<OpenedModel>>()

  constructor(catalog: Catalog, blobs: BlobStore) {
    this.#catalog = catalog
    this.#blobs = blobs
  }

  /** The model and, on the way, all that it is built on. Rejects with RegistryError. */
  open(record: ModelRecord): Promise<OpenedModel> {
    const opened = this.#opened.get(record.id) ?? this.#load(record)
    this.#opened.delete(record.id)
    this.#opened.set(record.id, opened)
    if (this.#opened.size > KEPT) this.#opened.delete(this.#opened.keys().next().value!)
    opened.catch(() => this.#opened.delete(record.id))
    return opened
  }

  /** Forgets a deleted model. */
  close(id: string): void {
    this.#opened.delete(id)
  }

  async #load(record: ModelRecord): Promise<OpenedModel> {
    const size = await this.#blobs.size(record.manifest)
    const manifest = parseManifest(await this.#blobs.read(record.manifest, { start: 0, end: size }))
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
