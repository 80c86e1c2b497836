import { command } from '../command.ts'
import { openClient, REGISTRY_HELP, REGISTRY_OPTIONS } from '../remote/client.ts'
import { humanBytes, say } from '../terminal.ts'

interface SweepReport {
  readonly deleted: readonly { readonly key: string; readonly size: number }[]
  /** Missing in the answer of older registries, which list everything. */
  readonly deletedTotal?: number
  readonly bytes: number
}

/** `wdelta sweep`: deletes bytes that no model needs. */
export const sweep = command({
  usage: 'sweep [--dry-run] [--json]',
  help: `Deletes the bytes of a registry that no model needs, and prints the deleted blobs; needs an admin token.

  --dry-run        only print what would be deleted
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
