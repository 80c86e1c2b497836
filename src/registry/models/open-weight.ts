import { STEP_ITEMS, type Steps } from '../../codec/base/steps.ts'
import type { Recipes } from '../../codec/plan/recipes.ts'
import type { Layout } from '../../codec/safetensors/layout.ts'
import type { FrameDelta, RecordDelta } from '../../codec/wdelta/delta-index.ts'
import type { Manifest } from './manifest.ts'

/**
 * Estimated bytes of an open model in memory. The figures are upper bounds that were measured for each kind of object; names of tensors count with
 * their length in the header.
 */
export interface OpenWeight {
  /** Shared with everything built on it: its recipes and the index of its delta. */
  readonly kept: number
  /** Its own: the table of its recipes, its manifest, its layouts. */
  readonly own: number
}

const MODEL_BYTES = 8192
const LAYOUT_TENSOR_BYTES = 110
const TABLE_ENTRY_BYTES = 60
const RECIPE_BYTES = 220
const STEP_BYTES = 60
/** A tensor of a delta's index, with its source or its arrays. */
const INDEX_TENSOR_BYTES = 180
/** Includes the number of the cell. */
const RANK_BYTES = 16
const ERROR_FIGURES_BYTES = 150
const BLOB_BYTES = 500

/** The weight of a model whose parent, if any, has the recipes `parent`. Recipes that both share count for the parent alone. */
export function* weighModel(
  { shards, delta, blobs }: Pick<Manifest, 'shards' | 'delta' | 'blobs'>,
  recipes: Recipes,
  parent: Recipes | null,
): Steps<OpenWeight> {
  let own = MODEL_BYTES + recipes.size * TABLE_ENTRY_BYTES
  for (const { layout } of shards) own += weighLayout(layout)
  for (const { sums } of blobs) own += BLOB_BYTES + sums.byteLength
  if (!delta) return { own, kept: recipes.size * RECIPE_BYTES }
  const { index, errors } = delta
  if (errors) own += errors.size * ERROR_FIGURES_BYTES
  const changed = yield* weighChanged(recipes, parent)
  const described = index.tensors.length * INDEX_TENSOR_BYTES
  const kept = changed.bytes + changed.count * INDEX_TENSOR_BYTES
  own += Math.max(0, described - changed.count * INDEX_TENSOR_BYTES)
  if (changed.count === 0) return { own, kept }
  return { own, kept: kept + (index.frames ? weighColumns(index) : weighRanks(index)) }
}

/** Bytes of a layout: its header and its tensors, whose names are no longer than the header. */
export function weighLayout({ header, tensors }: Layout): number {
  return header.length * 2 + tensors.length * LAYOUT_TENSOR_BYTES
}

/** Recipes that are none of the parent's. */
function* weighChanged(
  recipes: Recipes,
  parent: Recipes | null,
): Steps<{ count: number; bytes: number }> {
  let count = 0
  let bytes = 0
  let seen = 0
  for (const [name, recipe] of recipes) {
    if (seen++ % STEP_ITEMS === 0) yield
    if (recipe === parent?.get(name)) continue
    count++
    bytes += RECIPE_BYTES + recipe.steps.length * STEP_BYTES
  }
  return { count, bytes }
}

function weighColumns({ records, frames }: FrameDelta): number {
  const columns = [...Object.values(records), ...Object.values(frames)]
  return columns.reduce((sum, { byteLength }) => sum + byteLength, 0)
}

function weighRanks({ tensors }: RecordDelta): number {
  let bytes = 0
  for (const tensor of tensors) {
    if (tensor.strategy !== 'quantized') bytes += tensor.ranks.length * RANK_BYTES
  }
  return bytes
}
