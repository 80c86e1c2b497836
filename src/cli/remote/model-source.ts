import { mkdtemp, rm, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { CliError } from '../failure.ts'
import { openClient } from './client.ts'
import { pullModel } from './pull-files.ts'

/** A model folder that a command works on; one that was downloaded goes when this is disposed of. */
interface ModelSource extends AsyncDisposable {
  readonly folder: string
}

/** An id, or `namespace/name[@revision]`. */
const REF = /^([0-9a-f]{40}|[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*(@[A-Za-z0-9][\w.-]*)?)$/

/**
 * A folder as it is, or the weights of a model of the registry that `values` name, in a temporary folder beside `near`.
 * Rejects with CliError `no-model` for what is neither, and as the client does.
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
