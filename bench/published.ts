import { join } from 'node:path'
import { makeModel, makeTuned } from './make-model.ts'
import { timeWdelta } from './measure.ts'

/** What is reconstructed: a delta of every lossy kind, and lossless ones of a short and of a full fine-tune. */
export const DELTAS = ['int4', 'sparse', 'quantized', 'light', 'dense'] as const
export type Delta = (typeof DELTAS)[number]

/** How a row of a table calls it. */
export function titleOf(delta: Delta): string {
  return delta === 'light' || delta === 'dense' ? `lossless, ${delta}` : delta
}

/** Makes a base and fine-tunes of `size` bytes in folders of `folder`: `base`, `light`, `dense`. */
export async function makeModels(folder: string, size: number): Promise<void> {
  const at = (name: string) => join(folder, name)
  await makeModel(at('base'), { size, tensors: 40 })
  // What training moves weights by, against weights of 0.02: a full fine-tune, and a short one at a small learning rate.
  await makeTuned(at('dense'), at('base'), { sigma: 3e-4 })
  await makeTuned(at('light'), at('base'), { sigma: 1e-5, seed: 3 })
}

/** Publishes them: `bench/base`, and `bench/<delta>` for each. */
export async function publishModels(url: string, folder: string): Promise<void> {
  const registry = ['--registry', url]
  await timeWdelta('push', join(folder, 'base'), 'bench/base', ...registry)
  for (const delta of DELTAS) {
    const isLossless = delta === 'light' || delta === 'dense'
    const how = isLossless ? [] : ['--strategy', delta]
    const tuned = join(folder, delta === 'light' ? 'light' : 'dense')
    await timeWdelta('push', tuned, `bench/${delta}`, '--parent', 'bench/base', ...how, ...registry)
  }
}

/** Where a published model is reconstructed from. */
export function reconstructOf(url: string, ref: string): string {
  return `${url}/models/${encodeURIComponent(ref)}/reconstruct`
}
