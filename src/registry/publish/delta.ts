import { createHash } from 'node:crypto'
import type { FileRecord, ModelRecord } from '../../catalog/records.ts'
import { CodecError } from '../../codec/base/errors.ts'
import { LIMITS } from '../../codec/base/limits.ts'
import { checkExpansion } from '../../codec/plan/expansion.ts'
import { applyLinkSteps, type Recipes } from '../../codec/plan/recipes.ts'
import { inPathOrder } from '../../codec/safetensors/model-folder.ts'
import type { DeltaIndex, FrameDelta } from '../../codec/wdelta/delta-index.ts'
import { WdeltaReader } from '../../codec/wdelta/reader.ts'
import { RegistryError } from '../../errors.ts'
import { threadKernels } from '../../workers/kernels.ts'
import { openStoredIndex } from '../../workers/open-index.ts'
import { inTurns, takeInTurns } from '../../workers/turns.ts'
import { checkedEngine } from '../models/checked-reads.ts'
import { canonicalLayout } from '../models/layouts.ts'
import { frameDeltaShards, type ManifestShard } from '../models/manifest.ts'
import type { OpenedModel } from '../models/opened-models.ts'
import type { PublishDeltaOptions, UploadPart } from '../registry.ts'
import type { MatchDeps } from './candidates.ts'
import { checkClaim, matchParent } from './match-parent.ts'
import { proveModel } from './proofs.ts'
import { Publication, type StagedBlob } from './publication.ts'
import {
  checkDepth,
  findParent,
  insertProven,
  type Naming,
  openParent,
  type PublishDeps,
} from './publish.ts'
import {
  checkNew,
  inFile,
  type ReceivedFile,
  receiveFile,
  sideFiles,
  unexpectedPart,
} from './receive.ts'

/** Bytes reserved for each byte of an index: the worst case, an index full of tiny tensors. */
const INDEX_BYTES = 12
/** The one safetensors file that a record delta gives. */
const WEIGHTS = 'model.safetensors'

/** What receiving a delta needs. */
type ReceiveDeps = MatchDeps & Pick<PublishDeps, 'maxModelBytes'>

/** Bytes reserved for each tensor. */
const TENSOR_BYTES = 1000

interface ReceivedDelta {
  readonly blob: StagedBlob
  readonly index: DeltaIndex
}

/** `POST /deltas`: see `Publish.delta`. */
export async function publishDelta(
  deps: PublishDeps,
  options: PublishDeltaOptions,
  parts: AsyncIterable<UploadPart>,
  signal: AbortSignal,
): Promise<ModelRecord> {
  const named = options.parent === undefined ? null : await findParent(deps, options.parent)
  const { authorized } = options
  await using publication = new Publication({ ...deps, authorized })
  const open = (record: ModelRecord) => openParent(deps, publication, record)
  const matching = { ...deps, models: { open } }
  const { delta, sides } = await receiveParts(matching, publication, named, parts, signal)
  const { index } = delta
  const { parent, domain } = await matchParent(matching, index, named, signal)
  await checkDepth(deps, parent)
  await publication.reserve(index.tensors.length * TENSOR_BYTES, signal)
  const [deltaBlob, ...sideBlobs] = await publication.keepAll(
    [delta.blob, ...sides.map(({ blob }) => blob)],
    signal,
  )
  const engine = checkedEngine(deps.engine, publication.sums, parent.sums)
  const link = { blob: deltaBlob!.key, index, domain }
  const recipes = await inTurns(applyLinkSteps(parent.recipes, link), signal)
  checkExpansion(parent.recipes, recipes, delta.blob.size)
  const shards = index.shards ? frameDeltaShards(index) : await oneShard(parent, recipes)
  checkModelSize(shards, deps)
  const check = (files: readonly FileRecord[]) => {
    if (index.shards) checkShards(index, files)
  }
  const { files, ...hashed } = await proveModel(engine, { recipes, shards }, check, signal)
  const naming: Naming = {
    name: options.name,
    revision: options.revision,
    message: options.message,
  }
  const proven = {
    ...hashed,
    shards,
    delta: { ...link, errors: null },
    kind: 'delta',
    strategy: index.strategy,
    parent: parent.record.id,
    builtOn: parent,
    recipes,
    files: inPathOrder([...files, ...sideFiles(sides, sideBlobs)]),
    error: null,
  } as const
  return await insertProven({ ...deps, engine }, publication, naming, proven, signal)
}

/** The one file that a version 1 delta gives. */
async function oneShard({ manifest }: OpenedModel, recipes: Recipes): Promise<ManifestShard[]> {
  const layout = await canonicalLayout(manifest.shards, recipes, stored => stored)
  return [{ path: WEIGHTS, layout, blob: null }]
}

/** Refuses a model that is larger than an upload of files may be, before any of it is decoded. */
function checkModelSize(
  shards: readonly ManifestShard[],
  { maxModelBytes }: Pick<PublishDeps, 'maxModelBytes'>,
): void {
  const bytes = shards.reduce((sum, { layout }) => sum + layout.size, 0)
  if (bytes <= maxModelBytes) return
  const message = `expected a model of at most ${maxModelBytes} bytes, the delta gives ${bytes}`
  throw new CodecError('delta', 'model-size', message)
}

/** Refuses a lossless delta whose files differ from the digests in its index. */
function checkShards({ shards }: FrameDelta, files: readonly FileRecord[]): void {
  for (const { path, sha256 } of shards) {
    const found = files.find(file => file.path === path)?.sha256
    if (found === sha256) continue
    throw new RegistryError(
      'malformed-delta',
      `${path}: the delta says SHA-256 ${sha256}, but what it gives has ${found}`,
      { details: { rule: 'shard-hash', file: path, expected: sha256, found } },
    )
  }
}

async function receiveParts(
  deps: ReceiveDeps,
  publication: Publication,
  named: ModelRecord | null,
  parts: AsyncIterable<UploadPart>,
  signal: AbortSignal,
): Promise<{ delta: ReceivedDelta; sides: ReceivedFile[] }> {
  const sides = new Map<string, ReceivedFile>()
  let delta: ReceivedDelta | null = null
  for await (const part of parts) {
    if (part.field === 'delta') {
      if (delta) throw new RegistryError('bad-request', 'expected one part named delta, got two')
      delta = await receiveDelta(deps, publication, named, part, signal)
    } else if (part.field === 'file') {
      checkSide(part.path)
      checkNew(sides, part.path)
      sides.set(part.path, await receiveFile(publication, part, signal))
    } else {
      throw unexpectedPart(part, 'delta or file')
    }
  }
  if (!delta) throw new RegistryError('bad-request', 'expected a part named delta, got none')
  return { delta, sides: [...sides.values()] }
}

/** Stages a `.wdelta` while it is indexed. Looks for its parent as soon as its header is complete. */
async function receiveDelta(
  deps: ReceiveDeps,
  publication: Publication,
  named: ModelRecord | null,
  { path, body }: UploadPart,
  signal: AbortSignal,
): Promise<ReceivedDelta> {
  const { maxModelBytes: maxBytes } = deps
  // An element takes a byte at least.
  const maxElements = Math.min(LIMITS.elements, maxBytes)
  const reader = new WdeltaReader(threadKernels(), createHash('sha256'), { maxElements })
  try {
    const blob = await publication.stage(indexed(body, reader, { deps, named, signal }), signal)
    const ended = await inTurns(reader.finish(), signal)
    if (!('stored' in ended)) return { blob, index: ended }
    await publication.reserve(ended.tail.inflated * INDEX_BYTES, signal)
    return { blob, index: await openStoredIndex(ended, { maxBytes, signal }) }
  } catch (error) {
    throw inFile(path, error)
  }
}

async function* indexed(
  body: AsyncIterable<Uint8Array>,
  reader: WdeltaReader,
  { deps, named, signal }: { deps: MatchDeps; named: ModelRecord | null; signal: AbortSignal },
): AsyncGenerator<Uint8Array> {
  let checked = false
  for await (const chunk of body) {
    await takeInTurns(reader, chunk, signal)
    const { header } = reader
    if (header && !checked) {
      await checkClaim(deps, header, named)
      checked = true
    }
    yield chunk
  }
}

function checkSide(path: string): void {
  if (!path.endsWith('.safetensors')) return
  throw new RegistryError(
    'bad-request',
    `${path}: a model published as .wdelta takes its weights from the delta, side files can't be .safetensors`,
  )
}
