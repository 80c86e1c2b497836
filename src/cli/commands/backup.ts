import { command } from '../command.ts'
import { CliError } from '../failure.ts'
import { OutputFile } from '../output-file.ts'
import { openProgress } from '../progress.ts'
import { openClient, REGISTRY_HELP, REGISTRY_OPTIONS } from '../remote/client.ts'
import { say } from '../terminal.ts'

/** `wdelta backup`: a copy of the catalog. */
export const backup = command({
  usage: 'backup OUT',
  help: `Writes a consistent copy of a registry's catalog, an SQLite file, while the registry runs; needs an admin token.
To restore it, stop the registry and replace its registry.sqlite; at the next start it adopts the models that were published since from
the blob store. To back up the blobs themselves, copy the bucket or the folder.${REGISTRY_HELP}`,
  options: REGISTRY_OPTIONS,
  positionals: [1, 1],
  run: async (values, [out], signal) => {
    const incoming = await openClient(values).download('/admin/backup', 0, signal)
    const expected = Number(incoming.headers['content-length'])
    await using output = await OutputFile.create(out!)
    using progress = openProgress('backup', expected)
    let size = 0
    for await (const chunk of incoming as AsyncIterable<Uint8Array>) {
      await output.write(chunk)
      size += chunk.length
      progress.add(chunk.length)
    }
    if (size !== expected) {
      throw new CliError('cut', `expected ${expected} bytes of the catalog, got ${size}`)
    }
    await output.commit()
    await say(out!)
  },
})
