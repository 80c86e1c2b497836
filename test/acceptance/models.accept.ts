import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { headerBytes, parseLayout } from '../../src/codec/safetensors/header.ts'
import type { Model } from '../../src/registry/registry.ts'
import { Random } from '../support/random.ts'
import { startServer } from '../support/servers/server-process.ts'
import { wdelta } from '../support/servers/wdelta-process.ts'
import { curl } from './curl.ts'

/** PAIRS names a folder with the whole models; without it their cut is used. */
const { PAIRS = join(import.meta.dirname, '../fixtures/pairs'), INTEROP_PYTHON } = process.env
const RANGES = 1000

/** What is pushed, in order: the second is a delta on the base, the third a delta on that delta. */
const PUSHES = [
  { name: 'acme/base', from: 'base', options: {} },
  { name: 'acme/int4', from: 'sft-300', options: { parent: 'acme/base', strategy: 'int4' } },
  { name: 'acme/chain', from: 'sft-450', options: { parent: 'acme/int4', strategy: 'int4' } },
  { name: 'acme/sparse', from: 'light', options: { parent: 'acme/base', strategy: 'sparse' } },
  {
    name: 'acme/quantized',
    from: 'sft-450',
    options: { parent: 'acme/base', strategy: 'quantized' },
  },
] as const

const folder = t.testdir({})
const server = await startServer(join(folder, 'data'))
t.teardown(() => server.kill())

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function range(url: string, value: string): Promise<{ status: number; bytes: Buffer }> {
  const response = await fetch(url, { headers: { range: `bytes=${value}` } })
  return { status: response.status, bytes: Buffer.from(await response.arrayBuffer()) }
}

/** Every border of the layout, a few bytes around it, and `RANGES` more from a seed. */
function interestingRanges(file: Buffer): [number, number][] {
  const header = file.subarray(0, headerBytes(file.subarray(0, 8), file.length))
  const { tensors } = parseLayout(header, file.length)
  const borders = [0, 4, 8, header.length, ...tensors.map(({ end }) => end)]
  const ranges = borders.flatMap((at): [number, number][] => [
    [Math.max(0, at - 3), Math.min(file.length, at + 5)],
    [Math.min(at, file.length - 1), file.length],
  ])
  const random = new Random(7)
  for (let i = 0; i < RANGES; i++) {
    const start = random.below(file.length)
    // Most are small, as a reader of single tensors asks; some go far.
    const most = i % 10 === 0 ? file.length - start : Math.min(file.length - start, 5000)
    ranges.push([start, start + 1 + random.below(most)])
  }
  return ranges.filter(([start, end]) => end > start)
}

async function checkRanges(t: Test, url: string, file: Buffer): Promise<void> {
  const wrong: string[] = []
  const ranges = interestingRanges(file)
  for (const [start, end] of ranges) {
    const { status, bytes } = await range(url, `${start}-${end - 1}`)
    if (status !== 206 || !bytes.equals(file.subarray(start, end))) wrong.push(`${start}-${end}`)
  }
  t.strictSame(wrong, [], `${ranges.length} ranges are slices of the whole`)
  const suffix = await range(url, '-100')
  t.ok(suffix.bytes.equals(file.subarray(-100)))
  t.equal((await range(url, `${file.length}-`)).status, 416)
}

async function checkResume(t: Test, url: string, file: Buffer): Promise<void> {
  const path = join(folder, 'resumed.safetensors')
  for (const cut of [1, 9, 1000, Math.floor(file.length / 2), file.length - 1]) {
    await curl('-o', path, url)
    truncateSync(path, cut)
    await curl('-C', '-', '-o', path, url)
    t.ok(readFileSync(path).equals(file), `resumed after ${cut} bytes`)
  }
}

/** safetensors in Python reads what came, with finite values in every tensor. */
function checkPython(t: Test, path: string, tensors: number): void {
  if (INTEROP_PYTHON === undefined) return
  const script = `import sys
from safetensors.torch import load_file
print(sum(bool(tensor.isfinite().all()) for tensor in load_file(sys.argv[1]).values()))`
  const output = execFileSync(INTEROP_PYTHON, ['-c', script, path], { encoding: 'utf8' })
  t.equal(Number(output), tensors)
}

for (const { name, from, options } of PUSHES) {
  t.test(`${name}: pushed, streamed by curl, in ranges, resumed, pulled`, async t => {
    const source = join(PAIRS, from)
    const registry = server.url
    const pushed = await wdelta('push', source, name, { ...options, registry })
    t.equal(pushed.code, 0, pushed.stderr)
    const model = JSON.parse(
      await curl(`${server.url}/models/${encodeURIComponent(name)}`),
    ) as Model
    t.equal(model.id, pushed.stdout.trim())

    const url = `${server.url}/models/${model.id}/reconstruct`
    const path = join(folder, `${from}.safetensors`)
    await curl('-o', path, url)
    const file = readFileSync(path)
    t.equal(file.length, model.size)
    t.equal(sha256(file), model.sha256)
    if (model.kind === 'base') {
      t.ok(
        file.equals(readFileSync(join(source, 'model.safetensors'))),
        'a base comes back as it was',
      )
    }
    checkPython(t, path, model.tensors)
    await checkRanges(t, url, file)
    await checkResume(t, url, file)

    const out = join(folder, `pulled-${from}`)
    const pulled = await wdelta('pull', name, { out, registry })
    t.equal(pulled.code, 0, pulled.stderr)
    t.strictSame(readdirSync(out).sort(), readdirSync(source).sort())
    t.ok(readFileSync(join(out, 'model.safetensors')).equals(file))
  })
}

t.test('SIGTERM ends it with 0', async t => {
  t.equal(await server.stop(), 0)
})
