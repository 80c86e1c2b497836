import { isFloat } from '../codec/base/dtypes.ts'
import { planFrame } from '../codec/plan/plan.ts'
import type { Recipe, StoredRecipe } from '../codec/plan/recipes.ts'
import type { Engine } from './engine.ts'
import type { Comparison } from './tasks.ts'

export type { Comparison }

/** What elements of a tensor that have no value differ by, and those of no float dtype: they are copied. */
export const NOTHING: Comparison = { squaredError: 0, maxAbs: 0, squaredDelta: 0 }

/**
 * Compares elements of a float tensor as it is reconstructed with what was uploaded. `parentSteps`: how many of its steps are the parent's. Rejects
 * with what reading or decoding throws.
 */
export async function compareElements(
  engine: Engine,
  { recipe, parentSteps, upload }: { recipe: Recipe; parentSteps: number; upload: StoredRecipe },
  elements: { readonly first: number; readonly count: number },
  signal: AbortSignal,
): Promise<Comparison> {
  const { dtype: stored } = recipe
  if (!isFloat(stored)) return NOTHING
  const planned = planFrame(recipe, stored, elements)
  return engine.run(
    parts => ({
      kind: 'compare',
      ...parts.tunedFrame(planned, upload.source),
      parentSteps,
      stored,
    }),
    signal,
  )
}
