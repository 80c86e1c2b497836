import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { STRATEGIES } from '../../codec/base/strategies.ts'
import { inPathOrder } from '../../codec/safetensors/model-folder.ts'
import { choice, command, numeric, UsageError } from '../command.ts'
import { CliError } from '../failure.ts'
import { openProgress } from '../progress.ts'
import {
  openClient,
  REGISTRY_HELP,
  REGISTRY_OPTIONS,
  type RegistryClient,
  type RemoteModel,
} from '../remote/client.ts'
import { type FormFile, multipart } from '../remote/form.ts'
import { say } from '../terminal.ts'

/** `wdelta push`: publishes a folder or a delta. */
export const push = command({
  usage: `push DIR|FILE.wdelta NAME[@REV] [--parent REF] [--strategy ${STRATEGIES.join('|')}] [--outlier-fraction F] [--sparsity F] [--message M]`,
  help: `Publishes a model folder (all files in it and its subfolders but hidden ones) or a .wdelta, and prints the model's id.
NAME is namespace/name; the revision is main by default.

  --parent REF            of a folder: the model to store it against, as a delta. Of a .wdelta: the model that it was made against
  --strategy S            how a folder with a parent is stored; lossless by default
  --outlier-fraction F    for int4
  --sparsity F            for sparse
  --message M             a text to keep with the model
  --json                  print the model as JSON${REGISTRY_HELP}`,
  options: {
    ...REGISTRY_OPTIONS,
    parent: { type: 'string' },
    strategy: { type: 'string' },
    'outlier-fraction': { type: 'string' },
    sparsity: { type: 'string' },
    message: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
  positionals: [2, 2],
  run: async (values, [source, target], signal) => {
    const { strategy, parent, message } = values
    if (strategy !== undefined) choice('strategy', strategy, STRATEGIES)
    for (const name of ['outlier-fraction', 'sparsity'] as const) numeric(name, values[name])
    const fields = Object.entries({
      ...splitTarget(target!),
      message,
      parent,
      strategy,
      outlier_fraction: values['outlier-fraction'],
      sparsity: values.sparsity,
    }).filter((field): field is [string, string] => field[1] !== undefined)
    const client = openClient(values)
    const folder = (await stat(source!)).isDirectory()
    if (!folder && (strategy ?? values['outlier-fraction'] ?? values.sparsity) !== undefined) {
      throw new UsageError('a .wdelta is published as it is: it takes no strategy')
    }
    const files = folder ? await modelFiles(source!) : [await deltaFile(source!)]
    const form = { path: folder ? '/models' : '/deltas', fields, files }
    const model = await upload(client, form, signal)
    await say(values.json ? JSON.stringify(model, null, 1) : model.id)
  },
})

async function upload(
  client: RegistryClient,
  { path, fields, files }: { path: string; fields: [string, string][]; files: FormFile[] },
  signal: AbortSignal,
): Promise<RemoteModel> {
  const total = files.reduce((sum, { size }) => sum + size, 0)
  using progress = openProgress('push', total)
  const form = multipart(fields, files, bytes => progress.add(bytes))
  return await client.upload<RemoteModel>(path, form, signal)
}

function splitTarget(target: string): { name: string; revision: string | undefined } {
  const at = target.indexOf('@')
  if (at < 0) return { name: target, revision: undefined }
  return { name: target.slice(0, at), revision: target.slice(at + 1) }
}

async function deltaFile(source: string): Promise<FormFile> {
  const { size } = await stat(source)
  return { field: 'delta', source, path: 'model.wdelta', size }
}

/** The files of a model folder, in path order. */
async function modelFiles(folder: string): Promise<FormFile[]> {
  const files = await walk(folder, '')
  if (!files.some(({ path }) => path.endsWith('.safetensors'))) {
    throw new CliError('no-shards', `${folder}: expected at least one .safetensors file`)
  }
  return inPathOrder(files)
}

/** All files but hidden ones. Follows links to files, as download caches use them, but not links to folders, which may loop. */
async function walk(folder: string, prefix: string): Promise<FormFile[]> {
  const files: FormFile[] = []
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.name.startsWith('.')) continue
    const source = join(folder, entry.name)
    const path = prefix + entry.name
    if (entry.isDirectory()) {
      files.push(...(await walk(source, `${path}/`)))
      continue
    }
    const target = await stat(source)
    if (target.isFile()) files.push({ field: 'file', source, path, size: target.size })
  }
  return files
}
