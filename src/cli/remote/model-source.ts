import { mkdtemp, rm, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { CliError } from '../failure.ts'
import { openClient } from './client.ts'
import { pullModel } from './pull-files.ts'

/** The model folder that a command reads. Disposal deletes it if it was downloaded. */
interface ModelSource extends AsyncDisposable {
  readonly folder: string
}

/** An id, or `namespace/name[@revision]`. */
const REF = /^([0-9a-f]{40}|[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w.-]*)?)$/

/**
 * The folder `name`, or the weights of the model `name` of the registry in `values`, downloaded to a temporary folder beside `near`.
 * Rejects with CliError `no-model` if it is neither, and as the client does.
 */
export async function openModelSource(
  name: string,
  values: { registry?: string | undefined; token?: string | undefined },
  near: string,
  signal: AbortSignal,
): Promise<ModelSource> {
  if (await isFolder(name)) return { folder: name, [Symbol.asyncDispose]: async () => {} }
  if (!REF.test(name)) {
    const expected =
      'expected a folder, or a model of a registry as id or namespace/name[@revision]'
    throw new CliError('no-model', `${name}: ${expected}`)
  }
  const folder = await mkdtemp(join(dirname(resolve(near)), `.${basename(near)}.`))
  const dispose = () => rm(folder, { recursive: true })
  try {
    const wanted = (path: string) => /^[^/]+\.safetensors(\.index\.json)?$/.test(path)
    await pullModel(openClient(values), name, { folder, signal, wanted })
  } catch (error) {
    await dispose()
    throw error
  }
  return { folder, [Symbol.asyncDispose]: dispose }
}

async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    found => found.isDirectory(),
    () => false,
  )
}
