import { inTurns } from '../../workers/turns.ts'
import { removeModel } from '../care/remove-model.ts'
import type { Core } from '../core.ts'
import { deltaContent, fileContent, reconstructContent, tensorContent } from '../models/contents.ts'
import { pinnedContent } from '../models/hold-model.ts'
import { inspectModel, listTensors } from '../models/inspect.ts'
import type { OpenedModel } from '../models/opened-models.ts'
import { ShownModels } from '../models/shown-models.ts'
import { findRef } from '../refs.ts'
import type { Content, Models } from '../registry.ts'
import { withoutUndefined } from './without-undefined.ts'

/** The methods about models that are published. Deleting works on a full disk. */
export function modelMethods(core: Core): Models {
  const { catalog, room, engine, models } = core
  const { pins } = core.holds
  const shown = new ShownModels(catalog, models)
  const open = async (ref: string) => models.open(await findRef(catalog, ref))
  const contentOf = async <T extends Content>(
    ref: string,
    make: (model: OpenedModel) => T | Promise<T>,
  ): Promise<T> => {
    const model = await open(ref)
    return pinnedContent({ catalog, pins, models }, model, await make(model))
  }
  return {
    find: async ref => shown.one(await findRef(catalog, ref)),
    list: async query => {
      const { models: records, next } = await catalog.list(withoutUndefined(query))
      return { models: await shown.page(records), next }
    },
    lineage: async (ref, page) => {
      const { id } = await findRef(catalog, ref)
      const { models: records, next } = await catalog.lineage(id, withoutUndefined(page))
      return { lineage: await shown.page(records), next }
    },
    children: async (ref, page) => {
      const { id } = await findRef(catalog, ref)
      const query = { ...withoutUndefined(page), parent: id }
      const { models: records, next } = await catalog.list(query)
      return { models: await shown.page(records), next }
    },
    remove: async ref => {
      const record = await findRef(catalog, ref)
      await room.lend(() => removeModel(core, record))
      models.close(record.id)
    },
    tensors: async ref => inTurns(listTensors(await open(ref))),
    inspect: async ref => inTurns(inspectModel(await open(ref))),
    openReconstruct: (ref, dtype) =>
      contentOf(ref, async model => {
        const cast = dtype && { dtype, layout: await models.castLayout(model, dtype) }
        return reconstructContent(engine, model, cast ?? null)
      }),
    openFile: (ref, path) => contentOf(ref, model => fileContent(engine, model, path)),
    openTensor: (ref, name) => contentOf(ref, model => tensorContent(engine, model, name)),
    openDelta: ref => contentOf(ref, model => deltaContent(engine, model)),
    stats: async () => {
      const stats = await catalog.stats()
      return { ...stats, savedBytes: stats.logicalBytes - stats.storedBytes }
    },
  }
}
