import type { Catalog, Damage, ModelRecord } from '../catalog/catalog.ts'
import type { BlobStore } from '../storage/blob-store.ts'
import { BlockError } from '../workers/block-error.ts'
import { deltaFilename } from './refs.ts'

/** The name that a report gives to a model's manifest, which no client ever downloads. */
const MANIFEST = 'manifest'

/**
 * What is known of bad blocks. A blob with one is marked, and so are the models that need it; where the catalog knows another blob of
 * the same content, that is read in its place from then on.
 */
export class Damages {
  readonly #catalog: Catalog
  readonly #blobs: BlobStore
  readonly #bad: Set<string>
  /** What is read in place of a bad blob. */
  readonly #standIns = new Map<string, string>()
  #badBlocks = 0

  private constructor(catalog: Catalog, blobs: BlobStore, bad: Iterable<string>) {
    this.#catalog = catalog
    this.#blobs = blobs
    this.#bad = new Set(bad)
  }

  /** What the catalog knows of bad blocks. Rejects with what it does. */
  static async open(catalog: Catalog, blobs: BlobStore): Promise<Damages> {
    const bad = await catalog.damagedBlobs()
    return new Damages(
      catalog,
      blobs,
      bad.map(({ key }) => key),
    )
  }

  /** Bad blocks that were met since the start, each as often as it was read. */
  get badBlocks(): number {
    return this.#badBlocks
  }

  /** The blob to read for `key`: itself, or a copy of it that is not known to be bad. */
  standIn(key: string): string {
    return this.#standIns.get(key) ?? key
  }

  /**
   * Takes note of a failed read: see `Executor.failed`. A block that is bad is read once more, from the store itself, before that is said of it.
   * Rejects with what the catalog does.
   */
  async failed(error: unknown, tries: number): Promise<boolean> {
    if (!(error instanceof BlockError)) return false
    const bad = this.standIn(error.blob)
    if (tries === 0) {
      await this.#blobs.evict(bad, error.offset)
      return true
    }
    this.#badBlocks++
    await this.mark(bad, error.offset)
    const copy = await this.#catalog.copyOf(error.blob)
    if (copy) this.#standIns.set(error.blob, copy.key)
    else this.#standIns.delete(error.blob)
    return copy !== null && copy.key !== bad
  }

  /** Marks a blob with a bad block at `offset`, and the models that cannot do without it. */
  async mark(key: string, offset: number): Promise<void> {
    const at = new Date().toISOString()
    this.#bad.add(key)
    await this.#catalog.setBlobDamage(key, { offset, at })
    for (const owner of await this.#catalog.modelsOf(key)) {
      const damage = { file: fileOf(owner, key), offset, at }
      for (const model of await withDeltas(this.#catalog, owner)) {
        if (model.damaged === null) await this.#catalog.setDamaged(model.id, damage)
      }
    }
  }

  /** A blob was read as a whole, and is as it was stored. */
  async clear(key: string): Promise<void> {
    if (!this.#bad.delete(key)) return
    await this.#catalog.setBlobDamage(key, null)
    this.#standIns.delete(key)
  }
}

/** The name of a blob in its model: the path of a file, or what a client downloads the delta as. */
export function fileOf({ name, delta, files }: ModelRecord, key: string): Damage['file'] {
  if (key === delta) return deltaFilename(name)
  return files.find(({ blob }) => blob === key)?.path ?? MANIFEST
}

/** A model and every delta that is built on it. */
async function withDeltas(catalog: Catalog, model: ModelRecord): Promise<ModelRecord[]> {
  const found = [model]
  for (const { id } of found) {
    found.push(...(await catalog.children(id)).filter(({ kind }) => kind === 'delta'))
  }
  return found
}
