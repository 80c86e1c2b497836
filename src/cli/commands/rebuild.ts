import { command } from '../command.ts'
import { CliError } from '../failure.ts'
import { say } from '../terminal.ts'

/** `wdelta rebuild`: a lost catalog, made again from the blob store. */
export const rebuild = command({
  usage: 'rebuild',
  help: `Makes the catalog of a registry again from the manifests in its blob store, and prints the models. For a registry that does not run,
whose registry.sqlite is lost: one that has models is refused. It is configured as the server is: DATA_DIR, STORAGE, S3_…. Tokens are
in no blob: a new admin token is made by the next start. Ends with exit code 1 if the store has manifests that make no model.`,
  options: {},
  positionals: [0, 0],
  run: async () => {
    const registry = await import('../../main.ts')
    const { models, unadopted } = await registry.rebuild().catch(error => {
      throw error.code ? new CliError(error.code, error.message, { cause: error }) : error
    })
    for (const { id, name, revision, kind } of models)
      await say(`${id} ${name}@${revision} ${kind}`)
    await say(`${models.length} models`)
    if (unadopted.length === 0) return
    const lines = unadopted.map(({ manifest, why }) => `\n  ${manifest}: ${why}`)
    throw new CliError(
      'not-adopted',
      `${unadopted.length} manifests make no model:${lines.join('')}`,
    )
  },
})
