/**
 * Against the Python reference and against a plain file, in one run, on a generated bf16 model:
 *
 *     INTEROP_PYTHON=$(test/interop/setup.sh) node bench/reconstruct.ts [--size 300M] [--tensors 40] [--runs 3] [--folder DIR]
 *
 * Ours is the time of the whole `wdelta` process; the reference's starts after its imports, and the column "whole processes" counts
 * them too. Exits 1 if a ratio is below its target.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startServer } from '../test/support/servers/server-process.ts'
import { makeModel, makeTuned, parseSize } from './make-model.ts'
import {
  download,
  inTurn,
  line,
  type Measured,
  median,
  megabytes,
  peakOf,
  timeReference,
  timeWdelta,
} from './measure.ts'

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '300M' },
    tensors: { type: 'string', default: '40' },
    runs: { type: 'string', default: '3' },
    folder: { type: 'string' },
  },
})
const runs = Number(values.runs)
const folder = mkdtempSync(join(values.folder ?? tmpdir(), 'wdelta-bench-'))
const at = (name: string) => join(folder, name)
const missed: string[] = []

/** Prints how much faster ours is than theirs, and both peaks; notes a ratio below `target`. */
function compare(name: string, theirs: Measured[], ours: Measured[], target: number): void {
  const [slow, fast] = [theirs, ours].map(all => median(all.map(({ seconds }) => seconds)))
  const peaks = [theirs, ours].map(all => megabytes(Math.max(...all.map(one => one.peakBytes))))
  const whole = median(theirs.map(({ processSeconds }) => processSeconds)) / fast!
  const ratio = slow! / fast!
  if (ratio < target) missed.push(`${name}: ${ratio.toFixed(1)}x`)
  line(
    name,
    `${slow!.toFixed(2)} s`,
    `${fast!.toFixed(2)} s`,
    `${ratio.toFixed(1)}x`,
    `>= ${target}x`,
    `${whole.toFixed(1)}x`,
    ...peaks,
  )
}

async function encode(): Promise<void> {
  for (const [strategy, target] of [
    ['int4', 10],
    ['sparse', 10],
    ['quantized', 5],
  ] as const) {
    const models = ['--tuned', at('tuned'), '--base', at('base')]
    const [theirs, ours] = await inTurn(runs, [
      () => timeReference('save', at('theirs.wdelta'), at('tuned'), at('base'), strategy),
      () => timeWdelta('save', at(`${strategy}.wdelta`), ...models, '--strategy', strategy),
    ])
    compare(`encode ${strategy}`, theirs!, ours!, target)
  }
}

async function decode(): Promise<void> {
  const delta = at('int4.wdelta')
  const load = (...flags: string[]) =>
    timeWdelta('load', delta, '--base', at('base'), '--out', at('out'), ...flags)
  const [checked, unchecked, float32, stored, fast, fastStored] = await inTurn(runs, [
    () => timeReference('load', delta, at('base'), at('out.safetensors')),
    () => timeReference('load', delta, at('base'), at('out.safetensors'), '--no-verify'),
    () => load('--dtype', 'float32'),
    () => load(),
    () => load('--dtype', 'float32', '--no-verify'),
    () => load('--no-verify'),
  ])
  compare('reconstruct int4 to float32', checked!, float32!, 12)
  compare('reconstruct int4 to stored dtype', checked!, stored!, 12)
  compare('  --no-verify, to float32', checked!, fast!, 20)
  compare('  --no-verify, to stored dtype', checked!, fastStored!, 20)
  compare('  neither side verifies, to float32', unchecked!, fast!, 1)
}

async function overHttp(): Promise<void> {
  const server = await startServer(at('data'))
  const files = spawn(process.execPath, [join(import.meta.dirname, 'static-server.ts'), at('base')])
  try {
    const registry = ['--registry', server.url]
    await timeWdelta('push', at('base'), 'bench/base', ...registry)
    await timeWdelta('push', at('int4.wdelta'), 'bench/tuned', ...registry)
    const [chunk] = await once(files.stdout, 'data')
    const models = `${server.url}/models/bench%2F`
    const [base, tuned, plain] = await inTurn(Math.max(5, runs), [
      () => download(`${models}base/reconstruct`),
      () => download(`${models}tuned/reconstruct`),
      () => download(`${String(chunk).trim()}/model.safetensors`),
    ])
    const [ofBase, ofTuned, ofFile] = [base!, tuned!, plain!].map(all =>
      median(all.map(({ bytes, seconds }) => bytes / seconds)),
    )
    const ratio = ofTuned! / ofBase!
    if (ratio < 0.5) missed.push(`HTTP: ${ratio.toFixed(2)}x of a base`)
    line('HTTP, reconstruct int4', `${megabytes(ofTuned!)}/s`)
    line('HTTP, reconstruct a base', `${megabytes(ofBase!)}/s`, `${ratio.toFixed(2)}x`, '>= 0.5x')
    line(
      'HTTP, the same bytes by @fastify/static',
      `${megabytes(ofFile!)}/s`,
      `${(ofTuned! / ofFile!).toFixed(2)}x`,
    )
    line('server, peak RSS', megabytes(peakOf(server.pid)))
  } finally {
    files.kill()
    await server.kill()
  }
}

try {
  await makeModel(at('base'), { size: parseSize(values.size), tensors: Number(values.tensors) })
  await makeTuned(at('tuned'), at('base'))
  line('', 'reference', 'ours', 'ratio', 'target', 'whole processes', 'its RSS', 'our RSS')
  await encode()
  await decode()
  await overHttp()
} finally {
  rmSync(folder, { recursive: true })
}
if (missed.length > 0) {
  process.stdout.write(`below target: ${missed.join('; ')}\n`)
  process.exitCode = 1
}
