import type { Dtype } from '../base/dtypes.ts'

/** One tensor of a safetensors file. `begin` and `end` are byte offsets from the start of the file (not of its data). */
export interface LayoutTensor {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly begin: number
  readonly end: number
}

/**
 * What one safetensors file looks like, without its data: all that a plan needs.
 * `header` is the length word and the JSON with its padding, byte for byte as in the file.
 */
export interface Layout {
  readonly header: Uint8Array
  /** In file order. The first begins at `header.length`, each other one where the one before it ends. */
  readonly tensors: readonly LayoutTensor[]
  /** `__metadata__` in file order; null where the file has none. */
  readonly metadata: ReadonlyMap<string, string> | null
  /** Bytes of the whole file. */
  readonly size: number
}

/** A safetensors file of a model: `path` is its path in the model folder. */
export interface Shard {
  readonly path: string
  readonly layout: Layout
}
