import { createHash } from 'node:crypto'
import type { ModelRecord } from '../../catalog/records.ts'
import type { RecordStrategy, Strategy } from '../../codec/base/strategies.ts'
import { type WrittenParent, writtenParentSteps } from '../../codec/plan/parent-hash.ts'
import {
  applyLinkSteps,
  baseRecipesSteps,
  type Domain,
  type StoredRecipes,
} from '../../codec/plan/recipes.ts'
import { inPathOrder } from '../../codec/safetensors/model-folder.ts'
import type { RecordDelta } from '../../codec/wdelta/delta-index.ts'
import { RecordDeltaReader } from '../../codec/wdelta/v1/reader.ts'
import { RegistryError } from '../../errors.ts'
import { encodeRecordDelta, pairTensors } from '../../workers/encode/lossy.ts'
import { inTurns, takeInTurns } from '../../workers/turns.ts'
import { checkedEngine } from '../models/checked-reads.ts'
import type { ManifestShard } from '../models/manifest.ts'
import type { OpenedModel } from '../models/opened-models.ts'
import type { PublishFilesOptions, UploadPart } from '../registry.ts'
import { publishLossless } from './lossless.ts'
import { hashValues, measureError, proveModel } from './proofs.ts'
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
  asShards,
  type ReceivedFile,
  type ReceivedShard,
  receiveFiles,
  sideFiles,
  teed,
} from './receive.ts'
import { publishWhole } from './whole.ts'

/** `POST /models`: see `Publish.files`. */
export async function publishFiles(
  deps: PublishDeps,
  options: PublishFilesOptions,
  parts: AsyncIterable<UploadPart>,
  signal: AbortSignal,
): Promise<ModelRecord> {
  const strategy = chooseStrategy(options)
  const parent = options.parent === undefined ? null : await findParent(deps, options.parent)
  const { name, revision, message } = options
  const naming: Naming = { name, revision, message }
  // Every return below is awaited: the publication is disposed of at the end of this function.
  const { authorized } = options
  await using publication = new Publication({ ...deps, authorized })
  const opened = parent && strategy !== 'whole' ? await openParent(deps, publication, parent) : null
  if (opened) await checkDepth(deps, opened)
  const engine = checkedEngine(deps.engine, publication.sums, opened?.sums ?? new Map())
  const checked = { ...deps, engine }
  if (strategy === 'lossless' && opened) {
    const fineTune = { parent: opened, parts }
    return await publishLossless(checked, publication, naming, fineTune, signal)
  }
  const received = await receiveFiles(publication, parts, signal)
  if (strategy === 'whole' || strategy === 'lossless' || !opened) {
    const whole = { received: received.files, parent }
    return await publishWhole(checked, publication, naming, whole, signal)
  }
  const fineTune = { ...received, parent: opened, strategy, options }
  return await publishEncoded(checked, publication, naming, fineTune, signal)
}

/** The strategy of an upload. @throws RegistryError `bad-request` if it needs a parent and has none */
function chooseStrategy({ parent, strategy }: PublishFilesOptions): Strategy {
  const chosen = strategy ?? (parent === undefined ? 'whole' : 'lossless')
  if (chosen === 'whole' || parent !== undefined) return chosen
  throw new RegistryError('bad-request', `strategy ${chosen}: expected a parent to encode against`)
}

interface FineTune {
  readonly files: readonly ReceivedFile[]
  readonly shards: readonly ReceivedShard[]
  readonly parent: OpenedModel
  readonly strategy: RecordStrategy
  readonly options: PublishFilesOptions
}

/** Publishes a fine-tune as a version 1 delta. Its uploaded shards are kept only until the delta is proven. */
async function publishEncoded(
  deps: PublishDeps,
  publication: Publication,
  naming: Naming,
  fineTune: FineTune,
  signal: AbortSignal,
): Promise<ModelRecord> {
  const { files, parent, strategy } = fineTune
  const tuned = await tunedRecipes(publication, fineTune.shards)
  const { blob, index, domain } = await encode(deps, publication, fineTune, tuned, signal)
  const sides = files.filter(({ layout }) => layout === null)
  const [delta, ...kept] = await publication.keepAll(
    [blob, ...sides.map(side => side.blob)],
    signal,
  )
  const link = { blob: delta!.key, index, domain }
  const recipes = await inTurns(applyLinkSteps(parent.recipes, link), signal)
  const shards = asShards(fineTune.shards).map(shard => ({ ...shard, blob: null }))
  const model = { recipes, shards }
  const { files: proven, ...hashed } = await proveModel(deps.engine, model, () => {}, signal)
  const compared = { recipes, parent: parent.recipes, tuned }
  const { whole, byTensor } = await measureError(deps.engine, compared, signal)
  return insertProven(
    deps,
    publication,
    naming,
    {
      shards,
      delta: { ...link, errors: byTensor },
      kind: 'delta',
      strategy,
      parent: parent.record.id,
      builtOn: parent,
      recipes,
      ...hashed,
      files: inPathOrder([...proven, ...sideFiles(sides, kept)]),
      error: whole,
    },
    signal,
  )
}

/** The fine-tune's own values, readable for the two passes over each tensor that int4 and sparse take. */
async function tunedRecipes(
  publication: Publication,
  shards: readonly ReceivedShard[],
): Promise<StoredRecipes> {
  const stored = []
  for (const { path, layout, blob } of shards) {
    stored.push({ path, layout, blob: await publication.keepTemporarily(blob) })
  }
  return inTurns(baseRecipesSteps(stored))
}

async function encode(
  deps: PublishDeps,
  publication: Publication,
  { parent, strategy, options }: FineTune,
  tuned: StoredRecipes,
  signal: AbortSignal,
): Promise<{ blob: StagedBlob; index: RecordDelta; domain: Domain }> {
  const widens = parent.record.hashes.float32 !== null
  const written = await inTurns(writtenParentSteps(filesOf(parent), tuned.keys(), widens))
  const tensors = pairTensors(parent.recipes, tuned, written.records)
  const parentHash = hashParent(deps, parent, written, signal)
  // It is awaited once the first tensors are encoded.
  parentHash.catch(() => {})
  const encoded = encodeRecordDelta(
    {
      strategy,
      outlierFraction: options.outlierFraction,
      sparsity: options.sparsity,
      parentHash,
      tensors,
      hasher: createHash('sha256'),
    },
    deps.engine,
    signal,
  )
  // Our own file passes the same reader as everybody's.
  const reader = new RecordDeltaReader(createHash('sha256'))
  const blob = await publication.stage(
    teed(encoded, chunk => takeInTurns(reader, chunk, signal)),
    signal,
  )
  const index = await inTurns(reader.finish(), signal)
  return { blob, index, domain: written.domain }
}

/** The files that the reference would load a parent from; null for what a record delta gives, where that has unrounded values. */
function filesOf({ record, manifest }: OpenedModel): readonly ManifestShard[] | null {
  const { delta, shards } = manifest
  const isUnrounded = delta !== null && !delta.index.shards && record.hashes.float32 !== null
  return isUnrounded ? null : shards
}

/** The hash of the parent: a kept one, where one is of the same tensors in the same order. */
async function hashParent(
  { engine }: PublishDeps,
  { record, recipes }: OpenedModel,
  { domain, records, hashesAll }: WrittenParent,
  signal: AbortSignal,
): Promise<string> {
  const { float32, shardOrder } = record.hashes
  if (hashesAll && float32 !== null) return float32
  if (records.length === recipes.size) return shardOrder
  return hashValues(engine, recipes, records, domain, signal)
}
