import { createHash } from 'node:crypto'
import type { FileRecord, ModelRecord } from '../../catalog/records.ts'
import { applyLinkSteps } from '../../codec/plan/recipes.ts'
import { inPathOrder } from '../../codec/safetensors/model-folder.ts'
import type { HashedShard } from '../../codec/wdelta/delta-index.ts'
import { FrameDeltaReader } from '../../codec/wdelta/v2/reader.ts'
import { RegistryError } from '../../errors.ts'
import { FrameEncoder } from '../../workers/encode/frames.ts'
import { threadKernels } from '../../workers/kernels.ts'
import { openStoredIndex } from '../../workers/open-index.ts'
import { inTurns } from '../../workers/turns.ts'
import { frameDeltaShards } from '../models/manifest.ts'
import type { OpenedModel } from '../models/opened-models.ts'
import type { UploadPart } from '../registry.ts'
import { identityOf, proveModel } from './proofs.ts'
import type { Publication } from './publication.ts'
import { insertProven, type Naming, type PublishDeps } from './publish.ts'
import { inFile, ModelFiles, sideFiles, teed } from './receive.ts'

/** Bytes reserved for each byte of a header: the worst case, a header full of tiny tensors, whose index is written and read. */
const LOSSLESS_BYTES = 16

/** Publishes a fine-tune as a lossless delta. It is encoded while it comes in and never stored whole. */
export async function publishLossless(
  deps: PublishDeps,
  publication: Publication,
  naming: Naming,
  { parent, parts }: { parent: OpenedModel; parts: AsyncIterable<UploadPart> },
  signal: AbortSignal,
): Promise<ModelRecord> {
  const { engine } = deps
  const encoder = new FrameEncoder(
    {
      parent: parent.recipes,
      names: parentNames(deps, parent, signal),
      headerCame: bytes => publication.reserve(bytes * LOSSLESS_BYTES, signal),
    },
    engine,
    signal,
  )
  const received = new ModelFiles(publication, signal)
  // Our own file passes the same reader as everybody's.
  const reader = new FrameDeltaReader(threadKernels(), createHash('sha256'))
  const encoded = teed(encodeParts(encoder, received, parts), chunk => reader.push(chunk))
  const blob = await publication.stage(encoded, signal)
  const index = await openStoredIndex(reader.finish(), { signal })
  const sides = received.files
  const [delta, ...kept] = await publication.keepAll(
    [blob, ...sides.map(side => side.blob)],
    signal,
  )
  const link = { blob: delta!.key, index, domain: 'stored' } as const
  const recipes = await inTurns(applyLinkSteps(parent.recipes, link), signal)
  const shards = frameDeltaShards(index)
  const check = (files: readonly FileRecord[]) => checkProof(files, encoder.shards)
  const { files, ...hashed } = await proveModel(engine, { recipes, shards }, check, signal)
  const proven = {
    ...hashed,
    shards,
    delta: { ...link, errors: null },
    kind: 'delta',
    strategy: 'lossless',
    parent: parent.record.id,
    builtOn: parent,
    recipes,
    files: inPathOrder([...files, ...sideFiles(sides, kept)]),
    error: null,
  } as const
  return insertProven(deps, publication, naming, proven, signal)
}

async function parentNames(deps: PublishDeps, parent: OpenedModel, signal: AbortSignal) {
  const parentIdentity = await identityOf(deps.engine, parent, signal)
  return { parentHash: parent.record.hashes.stored, parentIdentity }
}

/** The delta of the parts' safetensors files; the other parts are staged on the way. */
async function* encodeParts(
  encoder: FrameEncoder,
  received: ModelFiles,
  parts: AsyncIterable<UploadPart>,
): AsyncGenerator<Uint8Array> {
  for await (const part of parts) {
    if (received.isShard(part)) yield* encodeShard(encoder, part)
    else await received.side(part)
  }
  await received.check(inPathOrder(encoder.shards))
  yield* await encoder.end()
}

async function* encodeShard(
  encoder: FrameEncoder,
  { path, body }: UploadPart,
): AsyncGenerator<Uint8Array> {
  try {
    yield* encoder.shard(path, body)
  } catch (error) {
    throw inFile(path, error)
  }
}

/** Checks that the reconstructed files are those that were uploaded. */
function checkProof(files: readonly FileRecord[], uploaded: readonly HashedShard[]): void {
  for (const { path, sha256 } of uploaded) {
    const found = files.find(file => file.path === path)?.sha256
    if (found === sha256) continue
    throw new RegistryError(
      'internal',
      `${path}: expected SHA-256 ${sha256}, its delta gives ${found}`,
    )
  }
}
