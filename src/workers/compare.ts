import { isFloat } from '../codec/base/dtypes.ts'
import type { ElementRun } from '../codec/base/ranges.ts'
import { runsOf } from '../codec/lossy/grid.ts'
import { FLOAT_GRID } from '../codec/lossy/program.ts'
import { planFrame } from '../codec/plan/plan.ts'
import type { Recipe, StoredRecipe } from '../codec/plan/recipes.ts'
import type { Engine } from './engine.ts'
import { mapOrdered } from './map-ordered.ts'
import type { Comparison } from './tasks.ts'

export type { Comparison }

/** Frames of a tensor that are compared side by side. */
const WINDOW = 4

/** The comparison of no elements, and of tensors that are not floating point, which are copied. */
export const NO_DIFFERENCE: Comparison = { squaredError: 0, maxAbs: 0, squaredDelta: 0 }

/** A tensor as it is reconstructed, and as it was uploaded. The first `parentSteps` of its steps are its parent's. */
interface ComparedTensor {
  readonly recipe: Recipe
  readonly parentSteps: number
  readonly upload: StoredRecipe
}

/** Compares all elements of a tensor, frame by frame. Rejects with what reading or decoding throws. */
export async function compareTensor(
  engine: Engine,
  tensor: ComparedTensor,
  signal: AbortSignal,
): Promise<Comparison> {
  const compare = (run: ElementRun) => compareRun(engine, tensor, run, signal)
  let sum = NO_DIFFERENCE
  for await (const part of mapOrdered(runsOf(tensor.recipe.count, FLOAT_GRID), WINDOW, compare)) {
    sum = addComparisons(sum, part)
  }
  return sum
}

/** The comparison of the elements of both together. */
export function addComparisons(a: Comparison, b: Comparison): Comparison {
  return {
    squaredError: a.squaredError + b.squaredError,
    maxAbs: Math.max(a.maxAbs, b.maxAbs),
    squaredDelta: a.squaredDelta + b.squaredDelta,
  }
}

async function compareRun(
  engine: Engine,
  { recipe, parentSteps, upload }: ComparedTensor,
  run: ElementRun,
  signal: AbortSignal,
): Promise<Comparison> {
  const { dtype: stored } = recipe
  if (!isFloat(stored)) return NO_DIFFERENCE
  const planned = planFrame(recipe, stored, run)
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
