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
import { startServer } from '../test/server-process.ts'
import { makeModel, makeTuned, parseSize } from './make-model.ts'
import { download, inTurn, line, median, megabytes, peakOf, timeWdelta } from './measure.ts'

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '300M' },
    runs: { type: 'string', default: '5' },
    folder: { type: 'string' },
  },
})
/** Least part of a base's rate, by what is reconstructed. */
const TARGETS = { int4: 1, sparse: 1, quantized: 1, light: 1, dense: 0.7 } as const
type Name = keyof typeof TARGETS

const folder = mkdtempSync(join(values.folder ?? tmpdir(), 'wdelta-http-'))
const at = (name: string) => join(folder, name)
const missed: string[] = []

await makeModel(at('base'), { size: parseSize(values.size), tensors: 40 })
// What training moves weights by, against weights of 0.02: a full fine-tune, and a short one at a small learning rate.
await makeTuned(at('dense'), at('base'), { sigma: 3e-4 })
await makeTuned(at('light'), at('base'), { sigma: 1e-5, seed: 3 })
const server = await startServer(at('data'))
const files = spawn(process.execPath, [join(import.meta.dirname, 'static-server.ts'), at('base')])
try {
  const [chunk] = await once(files.stdout, 'data')
  const registry = ['--registry', server.url]
  await timeWdelta('push', at('base'), 'bench/base', ...registry)
  const names = Object.keys(TARGETS) as Name[]
  for (const name of names) {
    const lossless = name === 'light' || name === 'dense'
    const how = lossless ? [] : ['--strategy', name]
    const tuned = at(name === 'light' ? 'light' : 'dense')
    await timeWdelta('push', tuned, `bench/${name}`, '--parent', 'bench/base', ...how, ...registry)
  }
  const models = `${server.url}/models/bench%2F`
  const urls = [
    `${models}base/reconstruct`,
    `${String(chunk).trim()}/model.safetensors`,
    ...names.map(name => `${models}${name}/reconstruct`),
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
  for (const [i, name] of names.entries()) {
    const { warm, cold } = rates[i + 2]!
    const ratio = warm / base!.warm
    if (ratio < TARGETS[name]) missed.push(`${name}: ${ratio.toFixed(2)}x`)
    line(
      name === 'light' || name === 'dense' ? `lossless, ${name}` : name,
      `${megabytes(warm)}/s`,
      `${ratio.toFixed(2)}x`,
      `>= ${TARGETS[name]}x`,
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
