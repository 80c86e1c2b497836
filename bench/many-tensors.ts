/**
 * What models with headers full of tensors of a few bytes take: their publication, a chain of fine-tunes of them, and reads. For each it
 * prints seconds, the latest that anything else was answered meanwhile, and resident memory; twice the tensors should take twice as much.
 *
 *     node bench/many-tensors.ts [tensors ...]
 */
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { buildLayout, type DescribedTensor } from '../src/codec/safetensors/write-header.ts'
import { type ServerProcess, startServer } from '../test/support/servers/server-process.ts'
import { peakOf, resetPeak } from './measure.ts'

/** Milliseconds between two looks at how late an answer is. */
const PROBE_MS = 20
const LEVELS = 3

const counts = process.argv.slice(2).map(Number)
const seconds = new Map<string, number>()
for (const count of counts.length > 0 ? counts : [145_000, 290_000]) {
  for (const bytes of [0, 4]) await bench(count, bytes)
}

async function bench(count: number, bytes: number): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'wdelta-tensors-'))
  console.log(`\n${count} tensors of ${bytes} bytes`)
  try {
    const first = await startServer(folder)
    const id = await chain(first, count, bytes)
    for (const path of ['tensors', 'inspect', 'reconstruct', 'reconstruct?dtype=float16']) {
      const [name] = path.split('?')
      await measured(first, `${bytes} GET ${name === path ? path : 'float16'}`, () =>
        read(`${first.url}/models/${id}/${path}`),
      )
    }
    const scrub = () => read(`${first.url}/admin/scrub`, { method: 'POST' })
    await measured(first, `${bytes} scrub`, scrub)
    await first.stop()
    const again = await startServer(folder)
    const name = encodeURIComponent('layer.0')
    await measured(again, `${bytes} first read after a start`, () =>
      read(`${again.url}/models/${id}/tensors/${name}`),
    )
    await again.stop()
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Publishes a model and fine-tunes in a row, all values of each others than those of the one before; the last one's id. */
async function chain(server: ServerProcess, count: number, bytes: number): Promise<string> {
  let parent: string | null = null
  for (let level = 0; level <= LEVELS; level++) {
    const form = new FormData()
    form.append('name', 'acme/many')
    if (parent !== null) form.append('parent', parent)
    form.append('file', new Blob([fileOf(count, bytes, level)]), 'model.safetensors')
    const model = await measured(server, `${bytes} publish, level ${level}`, async () => {
      const answer = await fetch(`${server.url}/models`, { method: 'POST', body: form })
      const body = (await answer.json()) as { id: string; detail?: string }
      if (answer.status !== 201) throw new Error(`${answer.status} ${body.detail}`)
      return body
    })
    parent = model.id
  }
  return parent!
}

function fileOf(count: number, bytes: number, level: number): Buffer<ArrayBuffer> {
  const tensors: DescribedTensor[] = Array.from({ length: count }, (_, i) => ({
    name: `layer.${i}`,
    dtype: 'F32',
    shape: [bytes / 4],
  }))
  const { header, size } = buildLayout(tensors, null)
  const file = Buffer.alloc(size, createHash('sha256').update(`${level}`).digest())
  file.set(header)
  return file
}

async function read(url: string, init?: RequestInit): Promise<void> {
  const answer = await fetch(url, init)
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`)
  for await (const _chunk of answer.body!) {
    // Only how long it takes counts.
  }
}

/** Does `work`, and tells how long it took and how late other answers came. */
async function measured<T>(
  { url, pid }: ServerProcess,
  what: string,
  work: () => Promise<T>,
): Promise<T> {
  let over = false
  let latest = 0
  const probing = (async () => {
    while (!over) {
      const began = performance.now()
      await read(`${url}/healthz`)
      latest = Math.max(latest, performance.now() - began)
      await sleep(PROBE_MS)
    }
  })()
  resetPeak(pid)
  const began = performance.now()
  const result = await work()
  const took = (performance.now() - began) / 1000
  over = true
  await probing
  const before = seconds.get(what)
  seconds.set(what, took)
  const ratio = before === undefined ? '' : `, ${(took / before).toFixed(1)} times the one before`
  const resident = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]
  console.log(
    `${what.padEnd(28)} ${took.toFixed(1)} s, /healthz ${latest.toFixed(0)} ms at the latest, ` +
      `${Math.round(Number(resident) / 1024)} MiB, peak ${Math.round(peakOf(pid) / 2 ** 20)} MiB${ratio}`,
  )
  return result
}
