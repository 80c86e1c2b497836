import { command, required } from '../command.ts'
import { openClient, REGISTRY_HELP, REGISTRY_OPTIONS } from '../remote/client.ts'
import { pullModel } from '../remote/pull-files.ts'
import { say } from '../terminal.ts'

/** `wdelta pull`: downloads the files of a model. */
export const pull = command({
  usage: 'pull REF --out DIR',
  help: `Downloads every file of a model. Each gets its name only once its SHA-256 is checked. Prints the paths.
Files that are there already are not downloaded again, and a download that was cut is resumed.

  --out DIR        folder to write to; created if missing${REGISTRY_HELP}`,
  options: { ...REGISTRY_OPTIONS, out: { type: 'string' } },
  positionals: [1, 1],
  run: async (values, [ref], signal) => {
    const folder = required('out', values.out)
    const paths = await pullModel(openClient(values), ref!, { folder, signal })
    for (const path of paths) await say(path)
  },
})
