import { createHash } from 'node:crypto'
import {
  baseRecipes,
  type DeltaIndex,
  DeltaReader,
  nameOrder,
  planHash,
  type Recipes,
  type StrategyV1,
  shardOrder,
} from '../../codec/index.ts'
import { encodeDelta, pairTensors } from '../../workers/encode.ts'
import { digest, type Executor } from '../../workers/execute.ts'
import { type Chain, proveChain } from '../chain.ts'
import { choice, command, numeric, required, UsageError } from '../command.ts'
import { CliError } from '../failure.ts'
import { openDelta, openModelFolder } from '../local-model.ts'
import { OutputFile } from '../output-file.ts'
import { openProgress } from '../progress.ts'
import { say } from '../terminal.ts'
import { openWorkshop } from '../workshop.ts'

/** `wdelta save`: a fine-tune to a delta, without a server. */
export const save = command({
  usage:
    'save OUT.wdelta --tuned DIR --base DIR [--parent-delta P.wdelta]… [--strategy lossless|int4|sparse|quantized] [--outlier-fraction F] [--sparsity F]',
  help: `Writes the difference between a fine-tune and its parent, and prints one line of JSON about it.

  --tuned DIR             model folder of the fine-tune
  --base DIR              model folder of the base
  --parent-delta P        the parent is not the base but the end of this chain of deltas on it; repeat, oldest first
  --strategy S            lossless (default, not implemented yet), int4, sparse or quantized
  --outlier-fraction F    int4: part of the elements kept as float16, 0.01 where not given
  --sparsity F            sparse: part of the elements dropped, 0.9 where not given`,
  options: {
    tuned: { type: 'string' },
    base: { type: 'string' },
    'parent-delta': { type: 'string', multiple: true, default: [] },
    strategy: { type: 'string', default: 'lossless' },
    'outlier-fraction': { type: 'string' },
    sparsity: { type: 'string' },
  },
  positionals: [1, 1],
  run: async (values, [out], signal) => {
    const tunedFolder = required('tuned', values.tuned)
    const baseFolder = required('base', values.base)
    const options = encoding(values)
    await using workshop = openWorkshop()
    const { files } = workshop
    const tuned = baseRecipes(await openModelFolder(files, tunedFolder))
    const shards = await openModelFolder(files, baseFolder)
    const deltas = []
    for (const path of values['parent-delta']) {
      deltas.push(await openDelta(files, path, { checksum: true, signal }))
    }
    const executor = await workshop.executor
    const parent = await openParent(executor, { shards, deltas }, tuned, signal)
    const index = await writeDelta(executor, out!, { ...options, ...parent }, tuned, signal)
    await say(summary(out!, index))
  },
})

interface Encoding {
  readonly strategy: StrategyV1
  readonly outlierFraction: number | undefined
  readonly sparsity: number | undefined
}

function encoding(values: {
  strategy: string
  'outlier-fraction'?: string | undefined
  sparsity?: string | undefined
}): Encoding {
  const strategy = choice('strategy', values.strategy, ['lossless', 'int4', 'sparse', 'quantized'])
  const outlierFraction = numeric('outlier-fraction', values['outlier-fraction'])
  const sparsity = numeric('sparsity', values.sparsity)
  if (outlierFraction !== undefined && strategy !== 'int4') {
    throw new UsageError(`--outlier-fraction is for strategy int4, not for ${strategy}`)
  }
  if (sparsity !== undefined && strategy !== 'sparse') {
    throw new UsageError(`--sparsity is for strategy sparse, not for ${strategy}`)
  }
  if (strategy === 'lossless') {
    const others = 'name --strategy int4, sparse or quantized'
    throw new CliError('not-implemented', `strategy lossless is not implemented yet: ${others}`)
  }
  return { strategy, outlierFraction, sparsity }
}

interface Parent {
  readonly recipes: Recipes
  /** Still in the making for a base: its tensors are encoded meanwhile. */
  readonly parentHash: string | Promise<string>
  /** The order of the records, which is the order in which the reference loads the parent. */
  readonly order: readonly string[]
}

/** The parent's values and the hash that names them: see `DESIGN.md`, "Lineage domains". Proves the chain that leads there. */
async function openParent(
  executor: Executor,
  chain: Chain,
  tuned: Recipes,
  signal: AbortSignal,
): Promise<Parent> {
  const names = nameOrder(tuned.keys())
  if (chain.deltas.length > 0) {
    const open = async (recipes: Recipes, until: AbortSignal) => {
      const all = nameOrder(recipes.keys())
      const parentHash = await digest(planHash(recipes, all, 'float32'), executor, until)
      return { recipes, parentHash, order: names }
    }
    return proveChain(executor, chain, open, signal)
  }
  const recipes = baseRecipes(chain.shards)
  const order = shardOrder(chain.shards, names)
  const parentHash = digest(planHash(recipes, order, 'stored'), executor, signal)
  // It is awaited once the first tensors are encoded.
  parentHash.catch(() => {})
  return { recipes, parentHash, order }
}

async function writeDelta(
  executor: Executor,
  path: string,
  { recipes, parentHash, order, ...options }: Encoding & Parent,
  tuned: Recipes,
  signal: AbortSignal,
): Promise<DeltaIndex> {
  const tensors = pairTensors(recipes, tuned, order)
  const hasher = createHash('sha256')
  const encoded = encodeDelta({ ...options, parentHash, tensors, hasher }, executor, signal)
  // Our own file passes the same reader as everybody's before it gets its name.
  const reader = new DeltaReader(createHash('sha256'))
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
