import { isBlobKey } from '../../storage/blob-key.ts'
import { upstreamOf } from '../../storage/near-store.ts'
import { sizeIfThere } from '../../storage/size.ts'
import { mapOrdered } from '../../workers/map-ordered.ts'
import type { Log } from '../log.ts'
import { adoptModels, claimStore } from './adopt.ts'
import type { Damages } from './damage.ts'
import { survey } from './survey.ts'
import { type SweepDeps, sweep } from './sweep.ts'
import { upgradeManifests } from './upgrade.ts'

export interface RecoverDeps extends SweepDeps {
  readonly damages: Damages
  readonly log?: Log | undefined
}

/** Blobs that are looked for at once. */
const WIDTH = 16

/**
 * Brings catalog and store together at the start: models of earlier versions get manifests of this one, models that only the store has are
 * adopted, what only the catalog has is marked as damaged, and what nobody needs is swept. Cost is linear in what the two list, and one look at the
 * store for each blob on which they differ. Rejects `catalog-failed` if they do not belong together, and as the two do.
 */
export async function recoverStore(deps: RecoverDeps): Promise<void> {
  const { catalog, blobs, room, damages, strays, log } = deps
  await claimStore({ catalog, blobs })
  const { upgraded, failed } = await upgradeManifests({ catalog, blobs, damages })
  if (upgraded > 0) log?.info({ models: upgraded }, 'models of an earlier version were upgraded')
  for (const { id, why } of failed) log?.warn({ id, why }, 'a model could not be upgraded')
  const surveyed = await survey(catalog, blobs)
  const { models, unadopted } = await adoptModels({ catalog, blobs, room }, surveyed.unknown)
  for (const { id, name } of models) log?.warn({ id, name }, 'a model was adopted from the store')
  for (const { manifest, why, blobs: keys } of unadopted) strays.note(manifest, why, keys)
  await markMissing(deps, surveyed.missing)
  await sweep(deps, false, surveyed)
}

/** Marks what the catalog knows and the store has not, as after a catalog or a store was put back from an older copy. */
async function markMissing(
  { catalog, blobs, damages, log }: RecoverDeps,
  missing: readonly string[],
): Promise<void> {
  // A list of the store may be behind, so each key is looked for. What is not a key at all comes from a damaged row: nothing is under it.
  const store = upstreamOf(blobs)
  const look = async (key: string) => ({
    key,
    isThere: isBlobKey(key) && (await sizeIfThere(store, key)) !== null,
  })
  for await (const { key, isThere } of mapOrdered(missing, WIDTH, look)) {
    if (isThere || (await catalog.modelsOf(key, 1)).length === 0) continue
    await damages.mark(key, 0)
    log?.warn({ blob: key }, 'a blob is missing in the store: the models that need it are damaged')
  }
}
