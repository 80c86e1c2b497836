import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import t from 'tap'
import type { Inspected } from '../../support/models/golden-cases.ts'
import { goldenCases } from '../../support/models/golden-cases.ts'
import {
  folderParts,
  openTestRegistry,
  publish,
  publishWdelta,
} from '../../support/servers/test-registry.ts'
import { wdelta } from '../../support/servers/wdelta-process.ts'

/** Stored bytes by tensor, as `wdelta inspect --json` tells them of each file. */
async function toldByCommand(paths: readonly string[]): Promise<Record<string, number>[]> {
  const { stdout } = await wdelta('inspect', ...paths, { json: true })
  return (JSON.parse(stdout) as Inspected[]).map(({ tensors }) =>
    Object.fromEntries(
      Object.entries(tensors as Record<string, { stored_bytes: number }>).map(
        ([name, { stored_bytes }]) => [name, stored_bytes],
      ),
    ),
  )
}

t.test('the registry and the command count the same stored bytes per tensor', async t => {
  const { registry } = await openTestRegistry(t)
  const cases = goldenCases()
  const told = await toldByCommand(cases.flatMap(({ deltas }) => deltas))
  const strategies = new Set<string>()
  for (const { base, deltas, name } of cases) {
    let parent = await publish(registry, folderParts(base))
    for (const delta of deltas) {
      const bytes = readFileSync(delta)
      parent = await publishWdelta(registry, bytes, { parent: parent.id })
      const { tensors, strategy } = await registry.models.inspect(parent.id)
      strategies.add(strategy)
      const stored = Object.fromEntries(tensors.map(({ name, storedBytes }) => [name, storedBytes]))
      t.strictSame(stored, told.shift(), `${name} ${basename(delta)}`)
      const sum = tensors.reduce((total, { storedBytes }) => total + storedBytes, 0)
      t.ok(sum > 0 && sum < bytes.length, 'and no more than the file has')
    }
  }
  t.strictSame(told, [])
  t.strictSame([...strategies].sort(), ['int4', 'quantized', 'sparse'])
})
