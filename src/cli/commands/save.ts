import { createHash } from 'node:crypto'
import { complete } from '../../codec/base/steps.ts'
import {
  DELTA_STRATEGIES,
  type DeltaStrategy,
  type RecordStrategy,
} from '../../codec/base/strategies.ts'
import { canWidenAll, writtenParentSteps } from '../../codec/plan/parent-hash.ts'
import { planHash } from '../../codec/plan/plan.ts'
import {
  type BaseShard,
  baseRecipes,
  type Recipes,
  type StoredRecipes,
} from '../../codec/plan/recipes.ts'
import { nameOrder } from '../../codec/safetensors/model-folder.ts'
import type { DeltaIndex } from '../../codec/wdelta/delta-index.ts'
import { WdeltaReader } from '../../codec/wdelta/reader.ts'
import { FrameEncoder } from '../../workers/encode/frames.ts'
import { encodeRecordDelta, pairTensors } from '../../workers/encode/lossy.ts'
import type { Engine } from '../../workers/engine.ts'
import { identify } from '../../workers/identify.ts'
import { threadKernels } from '../../workers/kernels.ts'
import { choice, command, numeric, required, UsageError } from '../command.ts'
import { type Chain, parentShards, proveChain } from '../local/chain.ts'
import { openLocalEngine } from '../local/engine.ts'
import type { LocalFiles } from '../local/files.ts'
import { fileChunks, openDelta, openModelFolder } from '../local/model.ts'
import { OutputFile } from '../output-file.ts'
import { openProgress } from '../progress.ts'
import { REGISTRY_HELP, REGISTRY_OPTIONS } from '../remote/client.ts'
import { openModelSource } from '../remote/model-source.ts'
import { say } from '../terminal.ts'

/** `wdelta save`: makes a delta of a fine-tune, without a server. */
export const save = command({
  usage: `save OUT.wdelta --tuned DIR --base DIR [--parent-delta P.wdelta]… [--strategy ${DELTA_STRATEGIES.join('|')}] [--outlier-fraction F] [--sparsity F]`,
  help: `Writes the difference between a fine-tune and its parent, and prints one line of JSON about it.

  --tuned DIR             model folder of the fine-tune
  --base DIR              model folder of the base. Both may also be models of a registry, as id or namespace/name[@revision]:
                          their weights are downloaded, and deleted after the command
  --parent-delta P        a delta on the base, to make a chain whose end is the parent; repeat the option, oldest delta first
  --strategy S            lossless (default), int4, sparse or quantized
  --outlier-fraction F    int4: share of the elements kept as float16, 0.01 by default
  --sparsity F            sparse: share of the elements dropped, 0.9 by default${REGISTRY_HELP}`,
  options: {
    ...REGISTRY_OPTIONS,
    tuned: { type: 'string' },
    base: { type: 'string' },
    'parent-delta': { type: 'string', multiple: true, default: [] },
    strategy: { type: 'string', default: 'lossless' },
    'outlier-fraction': { type: 'string' },
    sparsity: { type: 'string' },
  },
  positionals: [1, 1],
  run: async (values, [out], signal) => {
    const tuned = required('tuned', values.tuned)
    const base = required('base', values.base)
    const options = encoding(values)
    await using tunedSource = await openModelSource(tuned, values, out!, signal)
    await using baseSource = await openModelSource(base, values, out!, signal)
    await using local = openLocalEngine()
    const { files } = local
    const tunedShards = await openModelFolder(files, tunedSource.folder)
    const shards = await openModelFolder(files, baseSource.folder)
    const deltas = []
    for (const path of values['parent-delta']) {
      deltas.push(await openDelta(files, path, { checksum: true, signal }))
    }
    const engine = await local.engine
    const chain = { shards, deltas }
    const { strategy } = options
    const encoded =
      strategy === 'lossless'
        ? await encodeLossless({ engine, files, chain, tuned: tunedShards }, signal)
        : await encodeLossy(
            { engine, chain, tuned: baseRecipes(tunedShards) },
            { ...options, strategy },
            signal,
          )
    const index = await writeDelta(out!, encoded)
    await say(summary(out!, index))
  },
})

interface Encoding {
  readonly strategy: DeltaStrategy
  readonly outlierFraction: number | undefined
  readonly sparsity: number | undefined
}

function encoding(values: {
  strategy: string
  'outlier-fraction'?: string | undefined
  sparsity?: string | undefined
}): Encoding {
  const strategy = choice('strategy', values.strategy, DELTA_STRATEGIES)
  const outlierFraction = numeric('outlier-fraction', values['outlier-fraction'])
  const sparsity = numeric('sparsity', values.sparsity)
  if (outlierFraction !== undefined && strategy !== 'int4') {
    throw new UsageError(`--outlier-fraction is for strategy int4, not for ${strategy}`)
  }
  if (sparsity !== undefined && strategy !== 'sparse') {
    throw new UsageError(`--sparsity is for strategy sparse, not for ${strategy}`)
  }
  return { strategy, outlierFraction, sparsity }
}

/** A lossless delta of the files of a folder, against the stored values of the parent. Proves the chain that leads there. */
async function encodeLossless(
  {
    engine,
    files,
    chain,
    tuned,
  }: { engine: Engine; files: LocalFiles; chain: Chain; tuned: readonly BaseShard[] },
  signal: AbortSignal,
): Promise<AsyncIterable<Uint8Array>> {
  const parent = await proveChain(engine, chain, async recipes => recipes, signal)
  const names = nameParent(engine, parent, signal)
  const encoder = new FrameEncoder({ parent, names }, engine, signal)
  return (async function* () {
    for (const { path, blob, layout } of tuned) {
      yield* encoder.shard(path, fileChunks(files, blob, layout.size, signal))
    }
    yield* await encoder.end()
  })()
}

async function nameParent(engine: Engine, recipes: Recipes, signal: AbortSignal) {
  const names = nameOrder(recipes.keys())
  const [parentHash, parentIdentity] = await Promise.all([
    engine.digest(planHash(recipes, names, 'stored'), signal),
    identify(engine, recipes, signal),
  ])
  return { parentHash, parentIdentity }
}

/** A version 1 delta. */
async function encodeLossy(
  { engine, chain, tuned }: { engine: Engine; chain: Chain; tuned: StoredRecipes },
  options: Encoding & { readonly strategy: RecordStrategy },
  signal: AbortSignal,
): Promise<AsyncIterable<Uint8Array>> {
  const { recipes, parentHash, order } = await openParent(engine, chain, tuned, signal)
  const tensors = pairTensors(recipes, tuned, order)
  const hasher = createHash('sha256')
  return encodeRecordDelta({ ...options, parentHash, tensors, hasher }, engine, signal)
}

interface Parent {
  readonly recipes: Recipes
  /** Of a base, a promise: its tensors are encoded meanwhile. */
  readonly parentHash: string | Promise<string>
  /** The order of the records, which is the order in which the reference loads the parent. */
  readonly order: readonly string[]
}

/** The parent's values and the hash that names them (`docs/lineage.md`). Proves the chain that leads there. */
async function openParent(
  engine: Engine,
  chain: Chain,
  tuned: Recipes,
  signal: AbortSignal,
): Promise<Parent> {
  const shards = parentShards(chain, chain.deltas.length)
  const open = async (recipes: Recipes, until: AbortSignal): Promise<Parent> => {
    const steps = writtenParentSteps(shards, tuned.keys(), canWidenAll(recipes))
    const { domain, records: order, hashesAll } = complete(steps)
    const hashed = hashesAll ? nameOrder(recipes.keys()) : order
    const parentHash = engine.digest(planHash(recipes, hashed, domain), until)
    // It is awaited once the first tensors are encoded.
    parentHash.catch(() => {})
    return { recipes, parentHash, order }
  }
  if (chain.deltas.length === 0) return open(baseRecipes(chain.shards), signal)
  const proven = async (recipes: Recipes, until: AbortSignal) => {
    const parent = await open(recipes, until)
    return { ...parent, parentHash: await parent.parentHash }
  }
  return proveChain(engine, chain, proven, signal)
}

async function writeDelta(path: string, encoded: AsyncIterable<Uint8Array>): Promise<DeltaIndex> {
  // The same reader that checks other files checks this one before it gets its name.
  const reader = new WdeltaReader(threadKernels(), createHash('sha256'))
  await using output = await OutputFile.create(path)
  using progress = openProgress('save', null)
  for await (const chunk of encoded) {
    reader.push(chunk)
    await output.write(chunk)
    progress.add(chunk.length)
  }
  const index = reader.end()
  await output.commit()
  return index
}

function summary(path: string, { parentHash, strategy, size, tensors }: DeltaIndex): string {
  return JSON.stringify({ path, strategy, size, tensors: tensors.length, parentHash })
}
