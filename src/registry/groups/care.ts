import { collectGarbage } from '../../workers/garbage.ts'
import { backup } from '../care/backup.ts'
import { Readiness } from '../care/readiness.ts'
import { scrub } from '../care/scrub.ts'
import { type SweepDeps, sweep } from '../care/sweep.ts'
import type { Core } from '../core.ts'
import type { Care } from '../registry.ts'

/** The methods that keep the registry well. `scratch`: a folder that has room for a copy of the catalog. */
export function careMethods(core: Core, sweeping: SweepDeps, scratch: string): Care {
  const { catalog, blobs, room, lease, engine, storedEngine, models, damages } = core
  const readiness = new Readiness(catalog, blobs, room)
  return {
    sweep: ({ dryRun }) => sweep(sweeping, dryRun),
    scrub: options => scrub({ catalog, engine: storedEngine, models, damages }, options),
    backup: () => backup(catalog, scratch),
    trim: async () => {
      models.closeAll()
      blobs.trim()
      await engine.trim()
      collectGarbage()
    },
    ready: async () => {
      lease.check()
      await readiness.check()
    },
  }
}
