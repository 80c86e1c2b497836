import type { FileRecord, ModelRecord } from '../../catalog/records.ts'
import { baseRecipesSteps } from '../../codec/plan/recipes.ts'
import { inTurns } from '../../workers/turns.ts'
import { type ManifestShard, storedShards } from '../models/manifest.ts'
import { hashModel } from './proofs.ts'
import type { Publication } from './publication.ts'
import { insertProven, type Naming, type PublishDeps } from './publish.ts'
import type { ReceivedFile } from './receive.ts'

/** Publishes received files as they are: a base. `parent` is recorded as lineage only. */
export async function publishWhole(
  deps: PublishDeps,
  publication: Publication,
  naming: Naming,
  { received, parent }: { received: readonly ReceivedFile[]; parent: ModelRecord | null },
  signal: AbortSignal,
): Promise<ModelRecord> {
  const blobs = await publication.keepAll(
    received.map(({ blob }) => blob),
    signal,
  )
  const files: FileRecord[] = received.map(({ path }, i) => {
    const { key, size, sha256 } = blobs[i]!
    return { path, size, sha256, blob: key }
  })
  const shards: ManifestShard[] = received.flatMap(({ path, layout }, i) =>
    layout ? [{ path, layout, blob: blobs[i]!.key }] : [],
  )
  const manifest = { shards, delta: null }
  const recipes = await inTurns(baseRecipesSteps(storedShards(manifest)), signal)
  // Read back from where they are stored: what is hashed here is what will be served.
  const hashed = await hashModel(deps.engine, recipes, shards, signal)
  return insertProven(
    deps,
    publication,
    naming,
    {
      ...manifest,
      kind: 'base',
      strategy: 'whole',
      parent: parent?.id ?? null,
      builtOn: null,
      recipes,
      ...hashed,
      files,
      error: null,
    },
    signal,
  )
}
