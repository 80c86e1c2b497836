import { planRange } from '../../codec/plan/plan.ts'
import type { Recipes } from '../../codec/plan/recipes.ts'
import type { HashedShard } from '../../codec/wdelta/delta-index.ts'
import type { Engine } from '../../workers/engine.ts'
import { command } from '../command.ts'
import { CliError, inFile } from '../failure.ts'
import { proveChain } from '../local/chain.ts'
import { openLocalEngine } from '../local/engine.ts'
import { LocalFiles } from '../local/files.ts'
import { openDelta, openModelFolder } from '../local/model.ts'
import { openDeltas } from '../local/open-deltas.ts'
import { say } from '../terminal.ts'

/** `wdelta verify`: checks deltas. */
export const verify = command({
  usage: 'verify D.wdelta … [--base DIR]',
  help: `Checks the structure and the checksum of each delta, and prints a line for each that is sound.
Ends with exit code 1 and a reason at the first that is not.

  --base DIR     a model folder: the deltas are a chain on it, oldest first. Checks also the parent of each, and that each lossless
                 one gives the files that it was made from`,
  options: { base: { type: 'string' } },
  positionals: [1, Number.POSITIVE_INFINITY],
  run: async ({ base }, paths, signal) => {
    await (base === undefined ? verifyAlone(paths, signal) : verifyChain(base, paths, signal))
  },
})

async function verifyAlone(paths: readonly string[], signal: AbortSignal): Promise<void> {
  await using files = new LocalFiles()
  for (const path of paths) {
    await openDelta(files, path, { checksum: true, signal })
    await say(`${path}: ok (structure, checksum)`)
  }
}

async function verifyChain(
  base: string,
  paths: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  await using local = openLocalEngine()
  const shards = await openModelFolder(local.files, base)
  const { opened, checked } = await openDeltas(local, { paths, verify: true }, signal)
  const chain = { shards, deltas: opened }
  const engine = await local.engine
  const verifyLinks = async (_: Recipes, until: AbortSignal, links: readonly Recipes[]) => {
    for (const [i, { path, index }] of opened.entries()) {
      if (index.shards) await verifyFiles(engine, path, index.shards, links[i]!, until)
    }
  }
  await proveChain(engine, chain, verifyLinks, signal)
  await checked
  for (const { path, index } of opened) {
    await say(`${path}: ok (structure, checksum, parent${index.shards ? ', files' : ''})`)
  }
}

/** Checks the files that a delta gives. Rejects with CliError `digest-mismatch` for a file of other bytes, or as decoding does. */
async function verifyFiles(
  engine: Engine,
  delta: string,
  shards: readonly HashedShard[],
  recipes: Recipes,
  signal: AbortSignal,
): Promise<void> {
  for (const { path, layout, sha256 } of shards) {
    const segments = planRange(recipes, layout, { start: 0, end: layout.size })
    const found = await engine.digest(segments, signal).catch(error => {
      throw inFile(delta, error)
    })
    if (found === sha256) continue
    const message = `${delta}: expected SHA-256 ${sha256} of ${path}, got ${found}`
    throw new CliError('digest-mismatch', message)
  }
}
