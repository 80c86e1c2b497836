import type { Dtype } from '../../codec/base/dtypes.ts'
import type { Recipes } from '../../codec/plan/recipes.ts'
import type { Layout } from '../../codec/safetensors/layout.ts'
import { buildLayoutSteps } from '../../codec/safetensors/write-header.ts'
import { inTurns } from '../../workers/turns.ts'
import type { Manifest } from './manifest.ts'

/**
 * The layout of the `dtype=stored` stream: the published file's own where there is one, else one file in the canonical
 * layout with the `__metadata__` of the first shard.
 */
export async function reconstructLayout(
  { shards }: Pick<Manifest, 'shards'>,
  recipes: Recipes,
): Promise<Layout> {
  return shards.length === 1
    ? shards[0]!.layout
    : canonicalLayout(shards, recipes, stored => stored)
}

/** One file with all tensors in the canonical layout; `dtypeOf` says what each is cast to. */
export function canonicalLayout(
  shards: Manifest['shards'],
  recipes: Recipes,
  dtypeOf: (stored: Dtype) => Dtype,
): Promise<Layout> {
  const tensors = [...recipes.values()].map(recipe => ({
    name: recipe.name,
    dtype: dtypeOf(recipe.dtype),
    shape: recipe.shape,
  }))
  return inTurns(buildLayoutSteps(tensors, shards[0]?.layout.metadata ?? null))
}
