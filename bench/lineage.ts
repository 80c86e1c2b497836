/**
 * A run of lossless fine-tunes, each made from the last: what the last of them costs beside the first, over HTTP, in one run:
 *
 *     node bench/lineage.ts [--size 96M] [--depth 64] [--changed 0.01] [--small 256] [--runs 3] [--folder DIR]
 *
 * Each fine-tune changes `--changed` of the elements of four large tensors, here and there, and none of `--small` small ones. A figure of
 * the last is beside the same of the first; both are downloaded in turn, and the delay is the longest of the server's event loop. Exits 1 if a
 * goal is missed.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildLayout } from '../src/codec/safetensors/write-header.ts'
import { Random } from '../test/support/random.ts'
import { startServer } from '../test/support/servers/server-process.ts'
import { parseSize } from './make-model.ts'
import { download, inTurn, line, median, megabytes, peakOf } from './measure.ts'

/** Most times as long as the first that the last may take to be published, and the least part of its rate that it may be read at. */
const PUBLISH_GOAL = 3
const READ_GOAL = 0.1
const DELAY_GOAL_MS = 100
const LARGE = 4
const COLUMNS = 1024

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '96M' },
    depth: { type: 'string', default: '64' },
    changed: { type: 'string', default: '0.01' },
    small: { type: 'string', default: '256' },
    runs: { type: 'string', default: '3' },
    folder: { type: 'string' },
  },
})
const depth = Number(values.depth)
const runs = Number(values.runs)

/** A safetensors file in BF16, and where its large tensors are in it. */
function makeBase(random: Random) {
  const rows = Math.round(parseSize(values.size) / LARGE / COLUMNS / 2)
  const named = (name: string, shape: readonly number[]) =>
    ({ name, dtype: 'BF16', shape }) as const
  const large = Array.from({ length: LARGE }, (_, i) => named(`large.${i}.weight`, [rows, COLUMNS]))
  const small = Array.from({ length: Number(values.small) }, (_, i) =>
    named(`small.${i}.weight`, [COLUMNS]),
  )
  const { header, size, tensors } = buildLayout([...large, ...small], null)
  const file = new Uint8Array(new ArrayBuffer(size))
  file.set(header)
  const words = new Uint16Array(file.buffer, header.length)
  // Signs and significands of any kind, exponents of numbers below 1.
  for (let i = 0; i < words.length; i++) words[i] = random.below(2 ** 14) + (random.below(2) << 15)
  return { file, words, large: tensors.filter(({ name }) => name.startsWith('large.')), header }
}

async function publish(url: string, file: Uint8Array<ArrayBuffer>, parent?: string) {
  const form = new FormData()
  form.append('name', 'bench/lineage')
  if (parent !== undefined) form.append('parent', parent)
  form.append('file', new Blob([file]), 'model.safetensors')
  const began = performance.now()
  const response = await fetch(`${url}/models`, { method: 'POST', body: form })
  if (response.status !== 201) throw new Error(`${response.status}: ${await response.text()}`)
  const { id } = (await response.json()) as { id: string }
  return { id, seconds: (performance.now() - began) / 1000 }
}

/** Milliseconds of the longest delay of the server's event loop since this was asked for last. */
async function longestDelay(url: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text()
  return Number(/^nodejs_eventloop_lag_max_seconds (\S+)$/m.exec(text)![1]) * 1000
}

const folder = mkdtempSync(join(values.folder ?? tmpdir(), 'wdelta-lineage-'))
const missed: string[] = []
const goal = (name: string, isMet: boolean) => {
  if (!isMet) missed.push(name)
}

const random = new Random(1)
const { file, words, large, header } = makeBase(random)
const server = await startServer(join(folder, 'data'))
try {
  const published = [await publish(server.url, file)]
  let delay = 0
  await longestDelay(server.url)
  for (let level = 1; level <= depth; level++) {
    for (const { begin, end } of large) {
      const first = (begin - header.length) / 2
      const count = (end - begin) / 2
      const changes = Math.round(count * Number(values.changed))
      // Numbers move by a few of their last places.
      for (let i = 0; i < changes; i++) words[first + random.below(count)]! += 1 + random.below(6)
    }
    published.push(await publish(server.url, file, published.at(-1)!.id))
    delay = Math.max(delay, await longestDelay(server.url))
  }
  const seconds = published.slice(1).map(each => each.seconds)
  const [first, last] = [seconds.slice(0, 3), seconds.slice(-3)].map(median)
  const ratio = last! / first!
  goal('publishing', ratio <= PUBLISH_GOAL)
  line('', 'the first', 'the last', 'ratio', 'goal')
  line('base, published', `${published[0]!.seconds.toFixed(2)} s`)
  line(
    `published (of ${depth}; medians of 3)`,
    `${first!.toFixed(2)} s`,
    `${last!.toFixed(2)} s`,
    `${ratio.toFixed(2)}x`,
    `<= ${PUBLISH_GOAL}x`,
  )
  for (const dtype of ['stored', 'float32']) {
    const results = await inTurn(
      runs + 1,
      [published[1]!, published.at(-1)!].map(
        ({ id }) =>
          () =>
            download(`${server.url}/models/${id}/reconstruct?dtype=${dtype}`),
      ),
    )
    // The first run of each is cold.
    const [one, other] = results.map(([, ...warm]) =>
      median(warm.map(({ bytes, seconds }) => bytes / seconds)),
    )
    const part = other! / one!
    if (dtype === 'stored') goal('reading', part >= READ_GOAL)
    const rates = [one!, other!].map(rate => `${megabytes(rate)}/s`)
    line(`read as ${dtype}`, ...rates, `${part.toFixed(2)}x`, `>= ${READ_GOAL}x`)
  }
  const whileRead = await longestDelay(server.url)
  goal('delay', Math.max(delay, whileRead) <= DELAY_GOAL_MS)
  const delays = [delay, whileRead].map(ms => `${ms.toFixed(0)} ms`)
  line('longest delay, publishing / reading', ...delays, '', `<= ${DELAY_GOAL_MS} ms`)
  line('server, peak RSS', megabytes(peakOf(server.pid)))
} finally {
  await server.kill()
  rmSync(folder, { recursive: true })
}
if (missed.length > 0) {
  process.stdout.write(`missed: ${missed.join(', ')}\n`)
  process.exitCode = 1
}
