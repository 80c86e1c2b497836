import { command } from '../command.ts'
import { CliError } from '../failure.ts'
import { openClient, REGISTRY_HELP, REGISTRY_OPTIONS } from '../remote/client.ts'
import { humanBytes, say } from '../terminal.ts'

interface ScrubReport {
  readonly blobs: number
  readonly bytes: number
  readonly damaged: readonly {
    readonly model: string
    readonly name: string
    readonly revision: string
    readonly file: string
    readonly tensors: readonly string[]
    readonly offset: number
    readonly bytes: number
    readonly why: string
  }[]
  readonly cleared: readonly string[]
  /** Totals are missing in the answer of older registries, which list everything. */
  readonly damagedTotal?: number
  readonly clearedTotal?: number
}

/** `wdelta scrub`: checks all stored bytes. */
export const scrub = command({
  usage: 'scrub [--json]',
  help: `Makes a registry read and check every byte that it stores, and prints what is damaged; needs an admin token.
Ends with exit code 1 if anything is damaged.

  --json           print the registry's report as JSON${REGISTRY_HELP}`,
  options: { ...REGISTRY_OPTIONS, json: { type: 'boolean', default: false } },
  positionals: [0, 0],
  run: async (values, _none, signal) => {
    const report = await openClient(values).call<ScrubReport>('POST', '/admin/scrub', signal)
    const { blobs, bytes, damaged, cleared } = report
    const { damagedTotal = damaged.length, clearedTotal = cleared.length } = report
    if (values.json) await say(JSON.stringify(report, null, 1))
    else {
      for (const { model, name, revision, file, tensors, ...run } of damaged) {
        const where = `${name}@${revision} (${model}) ${file}, ${run.bytes} bytes at ${run.offset}`
        const which = tensors.length === 0 ? '' : `, tensors ${tensors.join(' ')}`
        await say(`${where}: ${run.why}${which}`)
      }
      if (damagedTotal > damaged.length) await say(`and ${damagedTotal - damaged.length} more`)
      for (const id of cleared) await say(`${id}: sound again`)
      const more = clearedTotal - cleared.length
      if (more > 0) await say(`and ${more} more that are sound again`)
      await say(`checked ${blobs} blobs, ${humanBytes(bytes)}`)
    }
    if (damagedTotal > 0) throw new CliError('damaged', `${damagedTotal} places are damaged`)
  },
})
