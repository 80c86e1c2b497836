import { command } from '../command.ts'
import {
  callPages,
  type ListedModel,
  modelPath,
  openClient,
  REGISTRY_HELP,
  REGISTRY_OPTIONS,
} from '../remote/client.ts'
import { humanBytes, say, table } from '../terminal.ts'

/** Models of one request. */
const PAGE = 100

const HEADING = ['NAME', 'REVISION', 'KIND', 'STRATEGY', 'SIZE', 'STORED', 'ID']

/** `wdelta ls`: the models of a registry, newest first. */
export const ls = command({
  usage: 'ls [--name NAME] [--revision REV] [--parent REF] [--json]',
  help: `Lists models, newest first.

  --name NAME      only versions of namespace/name
  --revision REV   only those published under this revision
  --parent REF     only deltas against this model
  --json           an array of models${REGISTRY_HELP}`,
  options: {
    ...REGISTRY_OPTIONS,
    name: { type: 'string' },
    revision: { type: 'string' },
    parent: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
  positionals: [0, 0],
  run: async ({ json, name, revision, parent, ...values }, _none, signal) => {
    const client = openClient(values)
    const filters = Object.entries({ name, revision, parent }).filter(
      (filter): filter is [string, string] => filter[1] !== undefined,
    )
    const query = new URLSearchParams([...filters, ['limit', String(PAGE)]]).toString()
    const list = { path: '/models', query, key: 'models' }
    const models = await callPages<ListedModel>(client, list, signal)
    await show(models, json)
  },
})

/** `wdelta lineage`: the models from the base to one. */
export const lineage = command({
  usage: 'lineage REF [--json]',
  help: `Lists the models that REF is built on, from the base to REF itself.

  --json           an array of models${REGISTRY_HELP}`,
  options: { ...REGISTRY_OPTIONS, json: { type: 'boolean', default: false } },
  positionals: [1, 1],
  run: async ({ json, ...values }, [ref], signal) => {
    const client = openClient(values)
    const list = { path: `${modelPath(ref!)}/lineage`, key: 'lineage' }
    await show(await callPages<ListedModel>(client, list, signal), json)
  },
})

/** `wdelta rm`: deletes a model. */
export const rm = command({
  usage: 'rm REF',
  help: `Deletes a model and the revisions that point at it; refused while other models are deltas against it.
If the registry requires tokens, it takes one of scope admin.
The next sweep deletes its bytes, unless another model needs them.
${REGISTRY_HELP}`,
  options: REGISTRY_OPTIONS,
  positionals: [1, 1],
  run: async (values, [ref], signal) => {
    await openClient(values).call('DELETE', modelPath(ref!), signal)
  },
})

async function show(models: readonly ListedModel[], json: boolean): Promise<void> {
  if (json) return say(JSON.stringify(models, null, 1))
  const rows = models.map(({ name, revision, kind, strategy, size, storedSize, id }) => {
    return [name, revision, kind, strategy, humanBytes(size), humanBytes(storedSize), id]
  })
  await say(table([HEADING, ...rows]))
}
