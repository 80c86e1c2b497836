import { command } from '../command.ts'
import { CliError } from '../failure.ts'
import { say } from '../terminal.ts'

/** `wdelta rebuild`: rebuilds a lost catalog from the blob store. */
export const rebuild = command({
  usage: 'rebuild',
  help: `Rebuilds the lost catalog of a registry from the manifests in its blob store, and prints the models. The registry must not be running,
and its registry.sqlite must be missing or without models. Takes the same configuration as the server: DATA_DIR, STORAGE, S3_…. Tokens are
lost: the next start creates a new admin token. Ends with exit code 1 if the store has manifests that make no model.`,
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
