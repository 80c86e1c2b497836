import { command } from '../command.ts'
import { openClient, REGISTRY_HELP, REGISTRY_OPTIONS } from '../remote/client.ts'
import { humanBytes, say } from '../terminal.ts'

interface SweepReport {
  readonly deleted: readonly { readonly key: string; readonly size: number }[]
  /** Not told by older registries, which name all. */
  readonly deletedTotal?: number
  readonly bytes: number
}

/** `wdelta sweep`: deletes what no model needs. */
export const sweep = command({
  usage: 'sweep [--dry-run] [--json]',
  help: `Deletes the bytes of a registry that no model needs, and prints what went; needs an admin token.

  --dry-run        delete nothing, print what would go
  --json           print the registry's report as JSON${REGISTRY_HELP}`,
  options: {
    ...REGISTRY_OPTIONS,
    'dry-run': { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
  positionals: [0, 0],
  run: async (values, _none, signal) => {
    const dryRun = values['dry-run']
    const client = openClient(values)
    const report = await client.call<SweepReport>('POST', '/admin/sweep', signal, { dryRun })
    if (values.json) return say(JSON.stringify(report, null, 1))
    for (const { key, size } of report.deleted) await say(`${key} ${humanBytes(size)}`)
    const verb = dryRun ? 'would delete' : 'deleted'
    const total = report.deletedTotal ?? report.deleted.length
    if (total > report.deleted.length) await say(`and ${total - report.deleted.length} more`)
    await say(`${verb} ${total} blobs, ${humanBytes(report.bytes)}`)
  },
})
