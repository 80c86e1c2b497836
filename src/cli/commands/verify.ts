import { proveChain } from '../chain.ts'
import { command } from '../command.ts'
import { LocalFiles } from '../local-files.ts'
import { openDelta, openModelFolder } from '../local-model.ts'
import { openDeltas } from '../open-deltas.ts'
import { say } from '../terminal.ts'
import { openWorkshop } from '../workshop.ts'

/** `wdelta verify`: whether deltas are what they say they are. */
export const verify = command({
  usage: 'verify D.wdelta … [--base DIR]',
  help: `Checks the structure and the checksum of each delta, and prints one line for each that is sound.
Ends with exit code 1 and a reason at the first that is not.

  --base DIR     take the deltas as a chain on this model folder, oldest first, and check every parent_hash too`,
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
  await using workshop = openWorkshop()
  const shards = await openModelFolder(workshop.files, base)
  const { opened, checked } = await openDeltas(workshop, { paths, verify: true }, signal)
  const chain = { shards, deltas: opened }
  await proveChain(await workshop.executor, chain, async () => {}, signal)
  await checked
  for (const path of paths) await say(`${path}: ok (structure, checksum, parent)`)
}
