/**
 * Reconstruct over HTTP, one client, beside a base of the same size and the same bytes as a plain file, in one run:
 *
 *     node bench/http.ts [--size 300M] [--runs 5] [--folder DIR]
 *
 * All are downloaded in turn; a figure is the median of `--runs`. Exits 1 if a ratio is below its target.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startServer } from '../test/support/servers/server-process.ts'
import { parseSize } from './make-model.ts'
import { download, inTurn, line, median, megabytes, peakOf } from './measure.ts'
import {
  DELTAS,
  type Delta,
  makeModels,
  publishModels,
  reconstructOf,
  titleOf,
} from './published.ts'

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '300M' },
    runs: { type: 'string', default: '5' },
    folder: { type: 'string' },
  },
})
/** Least part of a base's rate, by what is reconstructed. */
const TARGETS: Readonly<Record<Delta, number>> = {
  int4: 1,
  sparse: 1,
  quantized: 1,
  light: 1,
  dense: 0.7,
}

const folder = mkdtempSync(join(values.folder ?? tmpdir(), 'wdelta-http-'))
const at = (name: string) => join(folder, name)
const missed: string[] = []

await makeModels(folder, parseSize(values.size))
const server = await startServer(at('data'))
const files = spawn(process.execPath, [join(import.meta.dirname, 'static-server.ts'), at('base')])
try {
  const [chunk] = await once(files.stdout, 'data')
  await publishModels(server.url, folder)
  const urls = [
    reconstructOf(server.url, 'bench/base'),
    `${String(chunk).trim()}/model.safetensors`,
    ...DELTAS.map(delta => reconstructOf(server.url, `bench/${delta}`)),
  ]
  const results = await inTurn(
    Number(values.runs) + 1,
    urls.map(url => () => download(url)),
  )
  // The first run is cold: its figures stand beside the medians of the others.
  const rates = results.map(([cold, ...warm]) => ({
    cold: cold!.bytes / cold!.seconds,
    warm: median(warm.map(({ bytes, seconds }) => bytes / seconds)),
  }))
  const [base, plain] = rates
  line('', 'warm', 'to the base', 'target', 'cold')
  line('a base', `${megabytes(base!.warm)}/s`, '', '', `${megabytes(base!.cold)}/s`)
  line(
    'its bytes by @fastify/static',
    `${megabytes(plain!.warm)}/s`,
    `${(plain!.warm / base!.warm).toFixed(2)}x`,
    '',
    `${megabytes(plain!.cold)}/s`,
  )
  for (const [i, delta] of DELTAS.entries()) {
    const { warm, cold } = rates[i + 2]!
    const ratio = warm / base!.warm
    if (ratio < TARGETS[delta]) missed.push(`${titleOf(delta)}: ${ratio.toFixed(2)}x`)
    line(
      titleOf(delta),
      `${megabytes(warm)}/s`,
      `${ratio.toFixed(2)}x`,
      `>= ${TARGETS[delta]}x`,
      `${megabytes(cold)}/s`,
    )
  }
  line('server, peak RSS', megabytes(peakOf(server.pid)))
} finally {
  files.kill()
  await server.kill()
  rmSync(folder, { recursive: true })
}
if (missed.length > 0) {
  process.stdout.write(`below target: ${missed.join('; ')}\n`)
  process.exitCode = 1
}
