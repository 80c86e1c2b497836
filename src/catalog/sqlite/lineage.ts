import { setImmediate as turn } from 'node:timers/promises'
import { RegistryError } from '../../errors.ts'
import type { Statements } from './statements.ts'

/** Most models that are walked past in one turn of the event loop: a few milliseconds. */
const STEPS_PER_TURN = 1000

/**
 * The ids of a model and of all that it was made from, itself first, up to the first whose `seq` is not above `after`. Bases may name parents too, so
 * a lineage has no bound: a long one is walked in turns of the event loop.
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

/** As `Catalog.depth`. */
export function countDeltas({ linkOf }: Pick<Statements, 'linkOf'>, id: string): number {
  let deltas = 0
  let link = linkOf.get(id)
  while (link?.kind === 'delta' && link.parent !== null) {
    deltas++
    link = linkOf.get(link.parent)
  }
  return deltas
}
