import type { BlobRecord, FileRecord } from '../../catalog/records.ts'
import { LIMITS } from '../../codec/base/limits.ts'
import type { Layout, Shard } from '../../codec/safetensors/layout.ts'
import { LayoutReader } from '../../codec/safetensors/layout-reader.ts'
import {
  assembleTensorsSteps,
  checkPath,
  checkShardIndexSteps,
  inPathOrder,
} from '../../codec/safetensors/model-folder.ts'
import { RegistryError } from '../../errors.ts'
import { inTurns } from '../../workers/turns.ts'
import type { UploadPart } from '../registry.ts'
import { translateErrors } from '../translate.ts'
import type { Publication, StagedBlob } from './publication.ts'

/** Bytes reserved for each byte of a header: the worst case, a header full of tiny tensors. */
const WHOLE_BYTES = 10

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
  const received = new ModelFiles(publication, signal)
  for await (const part of parts) {
    if (received.isShard(part)) received.files.push(await receiveFile(publication, part, signal))
    else await received.side(part)
  }
  const files = inPathOrder(received.files)
  const shards = files.filter((file): file is ReceivedShard => file.layout !== null)
  await received.check(shards)
  return { files, shards }
}

/** Checks the files of a model as they come in, however the shards are stored. */
export class ModelFiles {
  /** The staged files. */
  readonly files: ReceivedFile[] = []
  readonly #publication: Publication
  readonly #signal: AbortSignal
  readonly #paths = new Set<string>()
  #index: Uint8Array | null = null

  constructor(publication: Publication, signal: AbortSignal) {
    this.#publication = publication
    this.#signal = signal
  }

  /** Checks the next part. True for a safetensors file. @throws RegistryError `bad-request` */
  isShard(part: UploadPart): boolean {
    const { path } = part
    if (part.field !== 'file') throw unexpectedPart(part, 'file')
    checkNew(this.#paths, path)
    this.#paths.add(path)
    return path.endsWith('.safetensors')
  }

  /** Stages a side file. */
  async side({ path, body }: UploadPart): Promise<void> {
    const collected = path === SHARD_INDEX ? collect(body) : null
    const blob = await this.#publication.stage(collected?.body ?? body, this.#signal)
    this.files.push({ path, blob, layout: null })
    if (collected) this.#index = collected.bytes()
  }

  /** Whether the shards make a model, and the one that the shard index names. Rejects with RegistryError, CodecError */
  async check(shards: readonly Shard[]): Promise<void> {
    if (shards.length === 0) {
      throw new RegistryError(
        'malformed-model',
        `expected at least one .safetensors file, got ${this.#paths.size} other files`,
        { details: { rule: 'no-shards' } },
      )
    }
    const index = this.#index
    const steps = index ? checkShardIndexSteps(index, shards) : assembleTensorsSteps(shards)
    await inTurns<unknown>(steps, this.#signal)
  }
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
      teed(body, chunk => takeChunk(publication, reader, chunk, signal)),
      signal,
    )
    return { path, blob, layout: reader.end() }
  } catch (error) {
    throw inFile(path, error)
  }
}

/** Feeds a reader. A header that becomes complete is parsed, with memory reserved for its tensors, before more bytes are taken. */
async function takeChunk(
  publication: Publication,
  reader: LayoutReader,
  chunk: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  const steps = reader.take(chunk)
  if (!steps) return
  await publication.reserve(reader.headerBytes! * WHOLE_BYTES, signal)
  await inTurns(steps, signal)
}

/** @throws RegistryError `bad-request` for a path that is no path in a model, or that came before. */
export function checkNew(files: { has(path: string): boolean }, path: string): void {
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

/** Passes `body` on after `see` has taken each chunk; what `see` throws ends it. */
export async function* teed(
  body: AsyncIterable<Uint8Array>,
  see: (chunk: Uint8Array) => unknown,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of body) {
    await see(chunk)
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

/** Puts the file's path in front of the message of a codec error. */
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

/** The records of a model's side files. */
export function sideFiles(
  sides: readonly ReceivedFile[],
  kept: readonly BlobRecord[],
): FileRecord[] {
  return sides.map(({ path }, i) => {
    const { key, size, sha256 } = kept[i]!
    return { path, size, sha256, blob: key }
  })
}
