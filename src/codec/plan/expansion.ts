import { CodecError } from '../base/errors.ts'
import { mostExpandedBytes } from '../base/limits.ts'
import { storedBytes } from './plan.ts'
import type { Recipes } from './recipes.ts'

/**
 * Refuses a delta that gives more bytes than its parent and its own `fileBytes` account for: see `EXPANSION`. To be called before a frame of
 * it is decoded.
 * @throws CodecError `model-size`
 */
export function checkExpansion(parent: Recipes, made: Recipes, fileBytes: number): void {
  const parentBytes = tensorBytes(parent)
  const bytes = tensorBytes(made)
  const most = mostExpandedBytes(parentBytes, fileBytes)
  if (bytes <= most) return
  const from = `a delta of ${fileBytes} bytes against a parent of ${parentBytes}`
  const message = `${from}: expected tensors of at most ${most} bytes, got ${bytes}`
  throw new CodecError('delta', 'model-size', message)
}

function tensorBytes(recipes: Recipes): number {
  let bytes = 0
  for (const recipe of recipes.values()) bytes += storedBytes(recipe)
  return bytes
}
