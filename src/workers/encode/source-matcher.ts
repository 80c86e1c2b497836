import { STEP_ITEMS, type Steps } from '../../codec/base/steps.ts'
import { planTensor, storedBytes } from '../../codec/plan/plan.ts'
import type { Recipe, Recipes } from '../../codec/plan/recipes.ts'
import type { sized } from '../../codec/wdelta/v2/format.ts'
import { canPredict } from '../../codec/wdelta/v2/tensor-source.ts'
import type { Engine } from '../engine.ts'
import { threadKernels } from '../kernels.ts'
import { inTurns } from '../turns.ts'

/** Bytes at the beginning of a tensor by which it is found under another name. */
const PROBE_BYTES = 65536
/** Most tensors of the parent, of one dtype and shape, that are read to find one under another name. */
const MAX_PROBED = 1024
/** Most parts by which one name may be longer than the other, each with a dot after it: `base_model.model.` has two. */
const MAX_PREFIX_PARTS = 4
/** A tensor of a shard, with its elements and bytes counted. */
export type Described = ReturnType<typeof sized>

/** Finds the tensor of the parent that predicts a tensor of the fine-tune. It compares checksums: a wrong match makes records longer, never wrong. */
export class SourceMatcher {
  readonly #parent: Recipes
  readonly #engine: Engine
  readonly #signal: AbortSignal | undefined
  /** Tensors of the parent by dtype and shape; made when first asked for. */
  #kinds: Promise<Map<string, Alike>> | null = null
  /** By dtype and shape, the parent's tensors by the checksum of their first bytes; made when first asked for. */
  readonly #probes = new Map<string, Promise<Map<bigint, Recipe>>>()
  /** What predicts the fine-tune's earlier tensors, by dtype, shape and the checksum of their first bytes. */
  readonly #before = new Map<string, Recipe>()

  constructor(parent: Recipes, engine: Engine, signal: AbortSignal | undefined) {
    this.#parent = parent
    this.#engine = engine
    this.#signal = signal
  }

  /**
   * The parent's tensor of the same name, if it can predict this one; else the source of an earlier tensor that begins with the same bytes; else a
   * tensor of the parent that does; else one whose name differs by a prefix; else null.
   */
  async find(tensor: Described, firstFrame: Uint8Array | null): Promise<Recipe | null> {
    const same = this.#parent.get(tensor.name)
    const fits = same && canPredict(same, tensor) ? same : null
    if (firstFrame === null) return fits
    const kind = kindOf(tensor)
    const sum = threadKernels().machine.checksum(firstFrame.subarray(0, PROBE_BYTES))
    const found =
      fits ?? (await this.#byContent(kind, sum)) ?? (await this.#byName(kind, tensor.name))
    if (found) this.#before.set(`${kind} ${sum}`, found)
    return found
  }

  async #byContent(kind: string, sum: bigint): Promise<Recipe | null> {
    const before = this.#before.get(`${kind} ${sum}`)
    if (before) return before
    const probes = this.#probes.get(kind) ?? this.#probe(kind)
    this.#probes.set(kind, probes)
    return (await probes).get(sum) ?? null
  }

  async #probe(kind: string): Promise<Map<bigint, Recipe>> {
    const probes = new Map<bigint, Recipe>()
    for (const recipe of (await this.#alike(kind))?.first ?? []) {
      const run = { start: 0, end: Math.min(storedBytes(recipe), PROBE_BYTES) }
      const chunks: Uint8Array[] = []
      const segments = planTensor(recipe, recipe.dtype, run)
      for await (const chunk of this.#engine.stream(segments, this.#signal)) {
        chunks.push(chunk.slice())
      }
      probes.set(threadKernels().machine.checksum(Buffer.concat(chunks)), recipe)
    }
    return probes
  }

  /** A tensor whose name differs by a prefix: `model.layers.0.weight` for `layers.0.weight`, or the other way round. */
  async #byName(kind: string, name: string): Promise<Recipe | null> {
    const longer = (await this.#alike(kind))?.bySuffix.get(name)
    if (longer) return longer
    for (const suffix of suffixesOf(name)) {
      const shorter = this.#parent.get(suffix)
      if (shorter && kindOf(shorter) === kind) return shorter
    }
    return null
  }

  async #alike(kind: string): Promise<Alike | undefined> {
    this.#kinds ??= inTurns(kindsOf(this.#parent), this.#signal)
    return (await this.#kinds).get(kind)
  }
}

function kindOf({ dtype, shape }: Pick<Recipe, 'dtype' | 'shape'>): string {
  return `${dtype} ${shape.join()}`
}

/** The name without its first part, without its first two, and so on up to MAX_PREFIX_PARTS. */
function* suffixesOf(name: string): Generator<string> {
  let dot = name.indexOf('.')
  for (let parts = 0; dot >= 0 && parts < MAX_PREFIX_PARTS; parts++) {
    yield name.slice(dot + 1)
    dot = name.indexOf('.', dot + 1)
  }
}

/** Tensors of one dtype and shape. */
interface Alike {
  /** The first MAX_PROBED of them. */
  readonly first: Recipe[]
  /** All of them by what follows a dot in their names; if that is common to several, the first. */
  readonly bySuffix: Map<string, Recipe>
}

function* kindsOf(recipes: Recipes): Steps<Map<string, Alike>> {
  const kinds = new Map<string, Alike>()
  let seen = 0
  for (const recipe of recipes.values()) {
    if (seen++ % STEP_ITEMS === 0) yield
    const kind = kindOf(recipe)
    const alike: Alike = kinds.get(kind) ?? { first: [], bySuffix: new Map() }
    kinds.set(kind, alike)
    if (alike.first.length < MAX_PROBED) alike.first.push(recipe)
    for (const suffix of suffixesOf(recipe.name)) {
      if (!alike.bySuffix.has(suffix)) alike.bySuffix.set(suffix, recipe)
    }
  }
  return kinds
}
