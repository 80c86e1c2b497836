import {
  assembleTensors,
  checkPath,
  checkShardIndex,
  type Layout,
  LayoutReader,
  LIMITS,
  type Shard,
} from '../codec/index.ts'
import { RegistryError } from '../errors.ts'
import type { Publication, StagedBlob } from './publication.ts'
import type { UploadPart } from './registry.ts'
import { translateErrors } from './translate.ts'

const SHARD_INDEX = 'model.safetensors.index.json'

/** A file of an upload, staged and valid. */
export interface ReceivedFile {
  readonly path: string
  readonly blob: StagedBlob
  /** Of a safetensors file; null for a side file. */
  readonly layout: Layout | null
}

/** The safetensors files among them, in path order. */
export type ReceivedShard = ReceivedFile & { readonly layout: Layout }

/**
 * Receives the files of a model, one after the other: paths are checked, safetensors headers are validated as soon as they are
 * complete (a fault ends the upload there), the shard index must agree with the shards. Files come back in path order.
 */
export async function receiveFiles(
  publication: Publication,
  parts: AsyncIterable<UploadPart>,
  signal: AbortSignal,
): Promise<{ files: ReceivedFile[]; shards: ReceivedShard[] }> {
  const files = new Map<string, ReceivedFile>()
  let index: Uint8Array | null = null
  for await (const part of parts) {
    const { path } = part
    if (part.field !== 'file') throw unexpectedPart(part, 'file')
    checkNew(files, path)
    if (path === SHARD_INDEX) {
      const collected = collect(part.body)
      files.set(path, { path, blob: await publication.stage(collected.body, signal), layout: null })
      index = collected.bytes()
    } else {
      files.set(path, await receiveFile(publication, part, signal))
    }
  }
  // In UTF-16 units, as the reference's `sorted(os.listdir())` orders the names that hubs use.
  const sorted = [...files.values()].sort((a, b) => (a.path < b.path ? -1 : 1))
  const shards = sorted.filter((file): file is ReceivedShard => file.layout !== null)
  if (shards.length === 0) {
    throw new RegistryError(
      'malformed-model',
      `expected at least one .safetensors file, got ${sorted.length} other files`,
      { details: { rule: 'no-shards' } },
    )
  }
  assembleTensors(shards)
  if (index) checkShardIndex(index, shards)
  return { files: sorted, shards }
}

/** Receives one file; safetensors by its name. */
export async function receiveFile(
  publication: Publication,
  { path, body }: UploadPart,
  signal: AbortSignal,
): Promise<ReceivedFile> {
  if (!path.endsWith('.safetensors')) {
    return { path, blob: await publication.stage(body, signal), layout: null }
  }
  const reader = new LayoutReader()
  try {
    const blob = await publication.stage(
      teed(body, chunk => reader.push(chunk)),
      signal,
    )
    return { path, blob, layout: reader.end() }
  } catch (error) {
    throw inFile(path, error)
  }
}

/** @throws RegistryError `bad-request` for a path that is no path in a model, or that came before. */
export function checkNew(files: ReadonlyMap<string, unknown>, path: string): void {
  try {
    checkPath(path)
  } catch (cause) {
    throw new RegistryError('bad-request', (cause as Error).message, { cause })
  }
  if (!files.has(path)) return
  throw new RegistryError('bad-request', `file ${JSON.stringify(path)} was sent twice`)
}

export function unexpectedPart({ field }: UploadPart, expected: string): RegistryError {
  return new RegistryError('bad-request', `expected a part named ${expected}, got ${field}`)
}

/** Passes `body` on while `see` looks at each chunk; what `see` throws ends it. */
export async function* teed(
  body: AsyncIterable<Uint8Array>,
  see: (chunk: Uint8Array) => void,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of body) {
    see(chunk)
    yield chunk
  }
}

/** Keeps the bytes of a small file while it passes. */
function collect(body: AsyncIterable<Uint8Array>) {
  const chunks: Uint8Array[] = []
  let size = 0
  const see = (chunk: Uint8Array) => {
    size += chunk.length
    if (size > LIMITS.headerBytes) {
      throw new RegistryError(
        'malformed-model',
        `${SHARD_INDEX}: expected at most ${LIMITS.headerBytes} bytes`,
        {
          details: { rule: 'shard-index-size' },
        },
      )
    }
    chunks.push(Buffer.from(chunk))
  }
  return { body: teed(body, see), bytes: () => Buffer.concat(chunks) }
}

/** Names the file in what a codec error says. */
export function inFile(path: string, error: unknown): RegistryError {
  const { code, message, details, cause } = translateErrors(error)
  if (code !== 'malformed-safetensors' && code !== 'malformed-delta') {
    return translateErrors(error)
  }
  return new RegistryError(code, `${path}: ${message}`, {
    cause,
    details: { ...details, file: path },
  })
}

/** Shards of an upload that are not stored: their layouts by path. */
export function asShards(shards: readonly ReceivedShard[]): Shard[] {
  return shards.map(({ path, layout }) => ({ path, layout }))
}
