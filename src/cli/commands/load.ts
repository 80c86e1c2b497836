import { join } from 'node:path'
import { castOf, isFloat, OUTPUT_DTYPES, type OutputDtype } from '../../codec/base/dtypes.ts'
import { planRange } from '../../codec/plan/plan.ts'
import type { Recipes } from '../../codec/plan/recipes.ts'
import type { Layout, Shard } from '../../codec/safetensors/layout.ts'
import { inPathOrder } from '../../codec/safetensors/model-folder.ts'
import { buildLayout } from '../../codec/safetensors/write-header.ts'
import { choice, command, required } from '../command.ts'
import { inFile } from '../failure.ts'
import { type Chain, proveChain, trustChain } from '../local/chain.ts'
import { openLocalEngine } from '../local/engine.ts'
import { openModelFolder, WEIGHTS } from '../local/model.ts'
import { openDeltas } from '../local/open-deltas.ts'
import { OutputFile } from '../output-file.ts'
import { openProgress } from '../progress.ts'
import { say } from '../terminal.ts'

/** `wdelta load`: reconstructs the model at the end of a chain of deltas, without a server. */
export const load = command({
  usage: `load D.wdelta [D2.wdelta …] --base DIR --out DIR [--dtype ${OUTPUT_DTYPES.join('|')}] [--no-verify]`,
  help: `Reconstructs the model at the end of a chain of deltas, oldest first, as DIR/${WEIGHTS}. If the last delta is lossless, writes the
files that it was made from, byte for byte.
Only weights are written, not config.json, the tokenizer and other files of the base.

  --base DIR     model folder that the first delta was made against
  --out DIR      folder to write to; created if missing. Files of the same name are replaced once the new ones are proven
  --dtype D      stored (default): the dtypes that the deltas name, or else the base's. Any other: that dtype for every float tensor
  --no-verify    do not check the hashes of the base and of each link, nor the checksum of each delta. Their structure is
                 still checked. Each delta after the first is then added to float32 values, as the reference does`,
  options: {
    base: { type: 'string' },
    out: { type: 'string' },
    dtype: { type: 'string', default: 'stored' },
    'no-verify': { type: 'boolean', default: false },
  },
  positionals: [1, Number.POSITIVE_INFINITY],
  run: async (values, paths, signal) => {
    const folder = required('base', values.base)
    const out = required('out', values.out)
    const dtype = choice('dtype', values.dtype, OUTPUT_DTYPES)
    const verify = !values['no-verify']
    await using local = openLocalEngine()
    const shards = await openModelFolder(local.files, folder)
    const { opened, checked } = await openDeltas(local, { paths, verify }, signal)
    const chain = { shards, deltas: opened }
    const engine = await local.engine
    await using outputs = new AsyncDisposableStack()
    const written = new Map<string, OutputFile>()
    const write = async (recipes: Recipes, until: AbortSignal) => {
      const files = outputFiles(chain, recipes, dtype)
      using progress = openProgress(
        'load',
        files.reduce((sum, { layout }) => sum + layout.size, 0),
      )
      for (const { path, layout } of files) {
        const target = join(out, path)
        const output = written.get(target) ?? outputs.use(await OutputFile.create(target))
        written.set(target, output)
        const segments = planRange(recipes, layout, { start: 0, end: layout.size })
        for await (const bytes of engine.writeFile(segments, output.temporary, until)) {
          progress.add(bytes)
        }
      }
    }
    // Its failure counts only after all links are proven, so a decoding error is due to the last delta.
    const writeProven = (recipes: Recipes, until: AbortSignal) =>
      write(recipes, until).catch(error => {
        throw inFile(paths.at(-1)!, error)
      })
    if (verify) await proveChain(engine, chain, writeProven, signal)
    else await write(trustChain(chain), signal)
    await checked
    for (const [target, output] of written) {
      await output.commit()
      await say(target)
    }
  },
})

/** The files that a chain gives: those that a lossless delta was made from, or else one in the canonical layout. */
function outputFiles(
  { shards, deltas }: Chain,
  recipes: Recipes,
  dtype: OutputDtype,
): readonly Shard[] {
  const { index } = deltas.at(-1)!
  if (index.shards && dtype === 'stored') return index.shards
  const last: readonly Shard[] = index.shards ?? shards
  const { metadata } = inPathOrder(last)[0]!.layout
  return [{ path: WEIGHTS, layout: outputLayout(recipes, dtype, metadata) }]
}

/** One file in the canonical layout, with the metadata of the base's first shard. */
function outputLayout(recipes: Recipes, dtype: OutputDtype, metadata: Layout['metadata']): Layout {
  const cast = castOf(dtype)
  const tensors = [...recipes.values()].map(recipe => ({
    name: recipe.name,
    shape: recipe.shape,
    dtype: cast && isFloat(recipe.dtype) ? cast : recipe.dtype,
  }))
  return buildLayout(tensors, metadata)
}
