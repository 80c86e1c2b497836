import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, mkdir, open, rename, stat, unlink } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { checkPath } from '../../codec/safetensors/model-folder.ts'
import { CliError } from '../failure.ts'
import { syncFolder } from '../output-file.ts'
import { openProgress, type Progress } from '../progress.ts'
import { type ModelFile, modelPath, type RegistryClient, type RemoteModel } from './client.ts'

/** Most connections in a row that end without a byte, before the download is given up. */
const MAX_ATTEMPTS = 5
/** Milliseconds before the second attempt, doubled each time. */
const PAUSE_MS = 200

/** Downloads the files of a model, or only those with a path that is `wanted`, to `folder`. Returns their paths. Rejects with CliError. */
export async function pullModel(
  client: RegistryClient,
  ref: string,
  options: {
    folder: string
    signal: AbortSignal
    wanted?: (path: string) => boolean
  },
): Promise<string[]> {
  const { folder, signal, wanted = () => true } = options
  const { id, files } = await client.call<RemoteModel>('GET', modelPath(ref), signal)
  // The paths come from the network, and none may lead out of the folder.
  for (const { path } of files) checkPath(path)
  const some = files.filter(({ path }) => wanted(path))
  return pullFiles({ client, id, folder, signal }, some)
}

interface Source {
  readonly client: RegistryClient
  readonly id: string
  readonly folder: string
  readonly signal: AbortSignal
}

interface Job extends Source {
  readonly file: ModelFile
  readonly progress: Progress
}

async function pullFiles(source: Source, files: readonly ModelFile[]): Promise<string[]> {
  const total = files.reduce((sum, { size }) => sum + size, 0)
  using progress = openProgress('pull', total)
  const paths: string[] = []
  for (const file of files) paths.push(await pullFile({ ...source, file, progress }))
  return paths
}

async function pullFile(job: Job): Promise<string> {
  const { file, folder, progress } = job
  const target = join(folder, file.path)
  if (await isThere(target, file)) {
    progress.add(file.size)
    return target
  }
  await mkdir(dirname(target), { recursive: true })
  // Its name has the digest, so that the partial file of another model is never continued.
  const partial = `${target}.${file.sha256.slice(0, 16)}.part`
  await using handle = await open(partial, 'a+')
  const hash = createHash('sha256')
  const received = await hashFile(partial, hash)
  progress.add(received)
  await receive(job, handle, hash, received)
  const sha256 = hash.digest('hex')
  if (sha256 !== file.sha256) {
    await unlink(partial)
    const came = `expected SHA-256 ${file.sha256}, got ${sha256}`
    throw new CliError('digest-mismatch', `${file.path}: ${came}; the download was deleted`)
  }
  await handle.datasync()
  await rename(partial, target)
  await syncFolder(dirname(target))
  return target
}

/** Appends the rest of a file. Opens another connection after each that is cut, as long as they bring bytes. */
async function receive(job: Job, handle: FileHandle, hash: Hash, received: number): Promise<void> {
  const { client, id, file, progress, signal } = job
  const path = `${modelPath(id)}/files/${file.path.split('/').map(encodeURIComponent).join('/')}`
  let at = received
  let failures = 0
  while (at < file.size) {
    const before = at
    try {
      const incoming = await client.download(path, at, signal)
      for await (const chunk of bodyFrom(incoming, at, file)) {
        await handle.appendFile(chunk)
        hash.update(chunk)
        at += chunk.length
        progress.add(chunk.length)
      }
    } catch (error) {
      failures = at > before ? 1 : failures + 1
      if (!isTransient(error) || failures >= MAX_ATTEMPTS) throw error
      await sleep(PAUSE_MS * 2 ** (failures - 1), undefined, { signal })
    }
  }
}

/** The bytes of an answer from `start` on. Throws CliError for more or fewer bytes than the file has. */
async function* bodyFrom(
  incoming: IncomingMessage,
  start: number,
  { path, size }: ModelFile,
): AsyncGenerator<Uint8Array> {
  const { statusCode, headers } = incoming
  if (statusCode === 206 && !headers['content-range']?.startsWith(`bytes ${start}-`)) {
    incoming.destroy()
    throw new CliError(
      'bad-answer',
      `${path}: asked from byte ${start}, got ${headers['content-range']}`,
    )
  }
  let at = statusCode === 206 ? start : 0
  for await (const chunk of incoming as AsyncIterable<Uint8Array>) {
    const wanted = chunk.subarray(Math.max(0, start - at))
    at += chunk.length
    if (at > size) throw new CliError('bad-answer', `${path}: expected ${size} bytes, more came`)
    if (wanted.length > 0) yield wanted
  }
  if (at < size) throw new CliError('cut-off', `${path}: expected ${size} bytes, got ${at}`)
}

/** Whether another attempt may help: the connection broke, or the registry was busy. */
function isTransient(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  if (!(error instanceof CliError)) return 'code' in error && error.code === 'ECONNRESET'
  return ['unreachable', 'cut-off', 'overloaded', 'shutting-down'].includes(error.code)
}

async function isThere(path: string, { size, sha256 }: ModelFile): Promise<boolean> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (!found || found.size !== size) return false
  const hash = createHash('sha256')
  await hashFile(path, hash)
  return hash.digest('hex') === sha256
}

/** Adds a file to a hash. Returns its size in bytes. */
async function hashFile(path: string, hash: Hash): Promise<number> {
  let size = 0
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024 })) {
    hash.update(chunk as Uint8Array)
    size += (chunk as Uint8Array).length
  }
  return size
}
