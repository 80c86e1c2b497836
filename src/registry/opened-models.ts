import type { Catalog, ModelRecord } from '../catalog/catalog.ts'
import {
  applyLinkSteps,
  type BlockSums,
  baseRecipesSteps,
  buildLayoutSteps,
  type Dtype,
  type Layout,
  type Recipes,
} from '../codec/index.ts'
import { RegistryError } from '../errors.ts'
import { type Executor, withRetries } from '../workers/execute.ts'
import { inTurns } from '../workers/turns.ts'
import { readChecked, withSums } from './checked-reads.ts'
import { type Manifest, openManifest, storedShards, sumsByKey } from './manifest.ts'

/** A model with everything that a plan needs, in memory. */
export interface OpenedModel {
  readonly record: ModelRecord
  readonly manifest: Manifest
  readonly recipes: Recipes
  /** What the blobs that the recipes read are checked against: those of its whole lineage, and its side files. */
  readonly sums: ReadonlyMap<string, BlockSums>
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
  readonly #executor: Executor
  readonly #entries = new Map<string, Entry>()
  #tensors = 0

  constructor(catalog: Catalog, executor: Executor) {
    this.#catalog = catalog
    this.#executor = executor
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
    try {
      return await this.#read(record)
    } catch (error) {
      if (await this.#catalog.model(record.id)) throw error
      throw new RegistryError('model-not-found', `model ${record.id} was deleted`, { cause: error })
    }
  }

  async #read(record: ModelRecord): Promise<OpenedModel> {
    const manifest = await this.#manifest(record)
    const parent = manifest.delta && (await this.#parentOf(record))
    const recipes = await inTurns<Recipes>(
      parent
        ? applyLinkSteps(parent.recipes, manifest.delta!)
        : baseRecipesSteps(storedShards(manifest)),
    )
    const sums = new Map([...(parent?.sums ?? []), ...sumsByKey(manifest.blobs)])
    return { record, manifest, recipes, sums, layout: await reconstructLayout(manifest, recipes) }
  }

  async #manifest({ id, manifest: key }: ModelRecord): Promise<Manifest> {
    const { size } = await this.#catalog.blob(key)
    const executor: Executor = {
      ...this.#executor,
      // That of a model which was deleted is gone, not damaged.
      failed: async (error, tries) =>
        (await this.#catalog.model(id)) !== null && this.#executor.failed(error, tries),
    }
    return withRetries(executor, async source => {
      const bytes = await source.read({ blob: key, start: 0, end: size }, undefined)
      return openManifest(key, bytes, blobs => {
        const checked = withSums(source, sumsByKey(blobs))
        return (blob, start, end) => readChecked(checked, { blob, start, end })
      })
    })
  }

  async #parentOf({ id, parent }: ModelRecord): Promise<OpenedModel> {
    const record = parent === null ? null : await this.#catalog.model(parent)
    if (!record) throw new RegistryError('catalog-failed', `model ${id} has lost its parent`)
    return this.open(record)
  }
}

/**
 * The layout of the `dtype=stored` stream: the published file's own where there is one, else one file in the canonical
 * layout with the `__metadata__` of the first shard.
 */
export async function reconstructLayout(
  { shards }: Pick<Manifest, 'shards'>,
  recipes: Recipes,
): Promise<Layout> {
  return shards.length === 1 ? shards[0]!.layout : canonicalLayout(shards, recipes, r => r.dtype)
}

/** One file with all tensors in the canonical layout; `dtypeOf` says what each is cast to. */
export function canonicalLayout(
  shards: Manifest['shards'],
  recipes: Recipes,
  dtypeOf: (recipe: { readonly dtype: Dtype }) => Dtype,
): Promise<Layout> {
  const tensors = [...recipes.values()].map(recipe => ({
    name: recipe.name,
    dtype: dtypeOf(recipe),
    shape: recipe.shape,
  }))
  return inTurns(buildLayoutSteps(tensors, shards[0]?.layout.metadata ?? null))
}
