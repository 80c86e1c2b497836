import { setImmediate as turn } from 'node:timers/promises'
import { RegistryError } from '../../errors.ts'
import type { Statements } from './statements.ts'

/** Models that are passed in one turn of the event loop: a few milliseconds. */
const STEPS_PER_TURN = 1000

/**
 * The ids of a model and of all that it was made from, itself first, as far as they came after the place `after`. Bases may name parents too, so
 * that a lineage has no bound: a long one is walked in turns of the event loop.
 * Rejects `catalog-failed` where a parent is not older than its child.
 */
export async function walkUp(
  { linkOf }: Pick<Statements, 'linkOf'>,
  id: string,
  after: number,
): Promise<string[]> {
  const ids: string[] = []
  let before = Number.POSITIVE_INFINITY
  for (let at: string | null = id; at !== null; ) {
    const link = linkOf.get(at)
    if (!link || link.seq <= after) break
    if (link.seq >= before) {
      throw new RegistryError('catalog-failed', `model ${at} is not older than its child`)
    }
    ids.push(at)
    before = link.seq
    at = link.parent
    if (ids.length % STEPS_PER_TURN === 0) await turn()
  }
  return ids
}
