import type { ModelRecord } from '../../catalog/records.ts'
import { confirmDamage } from '../care/damage.ts'
import { firstBadByte } from '../care/verify.ts'
import type { Core } from '../core.ts'
import { toModel } from '../models/shown-models.ts'
import { publishDelta } from '../publish/delta.ts'
import { publishFiles } from '../publish/files.ts'
import { FreshBlobs } from '../publish/fresh-blobs.ts'
import type { PublicationDeps } from '../publish/publication.ts'
import type { PublishDeps } from '../publish/publish.ts'
import type { Model, Publish } from '../registry.ts'

/** The methods that make models. `maxModelBytes`: most bytes of all safetensors files of a model that a `.wdelta` describes. */
export function publishMethods(core: Core, maxModelBytes: number): Publish {
  const { catalog, lease, room, engine, models, damages } = core
  const isSound: PublicationDeps['isSound'] = async (key, sums, signal) => {
    const bad = await firstBadByte(core.storedEngine, key, sums, signal)
    if (bad !== null) await damages.mark(key, bad)
    return bad === null
  }
  const deps: PublishDeps = { ...core, fresh: new FreshBlobs(), isSound, maxModelBytes }
  const published = async (publish: () => Promise<ModelRecord>): Promise<Model> => {
    lease.check()
    try {
      return toModel(await room.use(publish))
    } catch (error) {
      await confirmDamage({ catalog, models, source: engine.source }, error)
      throw error
    }
  }
  return {
    files: (options, parts, signal) => published(() => publishFiles(deps, options, parts, signal)),
    delta: (options, parts, signal) => published(() => publishDelta(deps, options, parts, signal)),
  }
}
