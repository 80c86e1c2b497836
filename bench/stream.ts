/**
 * A model larger than memory need be: 6 GB with one tensor of 2 GB, published as a base, as a lossless and as an int4 delta, streamed
 * alone and to eight clients at once of whom four are slow.
 *
 *     node bench/stream.ts [--size 6G] [--big-tensor 2G] [--folder DIR]
 *
 * Needs about four times `size` on the disk of DIR. Exits 1 if the server's memory, its first byte, or the growth of its data folder while
 * a fine-tune becomes lossless is over the limit.
 */
import { globSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type ServerProcess, startServer } from '../test/support/servers/server-process.ts'
import { makeModel, makeTuned, parseSize } from './make-model.ts'
import {
  type Download,
  download,
  line,
  megabytes,
  peakOf,
  resetPeak,
  timeWdelta,
} from './measure.ts'

const STREAM_BYTES = 400e6
const ENCODE_BYTES = 500e6
/** What the data folder may hold for a while beside a lossless delta that comes in. */
const BESIDE_BYTES = 64e6
const FIRST_BYTE_SECONDS = 0.05
const FAST_CLIENTS = 4
const SLOW_CLIENTS = 4
/** Of a slow client: what it has not read when the fast ones are done is given up. */
const SLOW_RATE = '10M'

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '6G' },
    'big-tensor': { type: 'string', default: '2G' },
    folder: { type: 'string' },
  },
})
const folder = mkdtempSync(join(values.folder ?? tmpdir(), 'wdelta-stream-'))
const missed: string[] = []

/** Runs `work` and prints the most memory that the server held meanwhile. */
async function watched<T>(
  server: ServerProcess,
  name: string,
  limit: number,
  work: () => Promise<T>,
): Promise<T> {
  resetPeak(server.pid)
  const began = performance.now()
  const result = await work()
  const peak = peakOf(server.pid)
  const seconds = (performance.now() - began) / 1000
  if (peak > limit) missed.push(`${name}: ${megabytes(peak)}`)
  line(name, `${seconds.toFixed(1)} s`, `RSS ${megabytes(peak)}`, `<= ${megabytes(limit)}`)
  return result
}

function report(name: string, downloads: readonly Download[]): void {
  const rate = downloads.reduce((sum, { bytes, seconds }) => sum + bytes / seconds, 0)
  const first = Math.max(...downloads.map(({ firstByteSeconds }) => firstByteSeconds))
  line(`  ${name}`, `${megabytes(rate)}/s`, `first byte ${Math.round(first * 1000)} ms`)
}

async function crowd(url: string): Promise<Download[]> {
  const slow = Array.from({ length: SLOW_CLIENTS }, () => trickle(url))
  const fast = await Promise.all(Array.from({ length: FAST_CLIENTS }, () => download(url)))
  await Promise.all(slow.map(stop => stop()))
  return fast
}

/** A client that reads at {@link SLOW_RATE} until it is told to stop. */
function trickle(url: string): () => Promise<void> {
  const abort = new AbortController()
  const perSecond = parseSize(SLOW_RATE)
  const reading = (async () => {
    const began = performance.now()
    let bytes = 0
    const response = await fetch(url, { signal: abort.signal })
    for await (const chunk of response.body!) {
      bytes += chunk.length
      const ahead = (bytes / perSecond) * 1000 - (performance.now() - began)
      if (ahead > 0) await new Promise(resolve => setTimeout(resolve, ahead))
    }
  })().catch(error => {
    if (!abort.signal.aborted) throw error
  })
  return () => {
    abort.abort()
    return reading
  }
}

/** Bytes of all files in a folder. A file may go while they are counted. */
function bytesIn(path: string): number {
  return globSync(join(path, '**/*')).reduce(
    (sum, file) => sum + (statSync(file, { throwIfNoEntry: false })?.size ?? 0),
    0,
  )
}

/** Publishes the fine-tune as a lossless delta, and compares the most that the data folder grew by with what it keeps. */
async function publishLossless(server: ServerProcess, tuned: string, registry: string[]) {
  const data = join(folder, 'data')
  const before = bytesIn(data)
  let most = 0
  const watch = setInterval(() => {
    most = Math.max(most, bytesIn(data) - before)
  }, 50)
  await watched(server, 'publish its fine-tune as lossless', ENCODE_BYTES, () =>
    timeWdelta('push', tuned, 'bench/lossless', '--parent', 'bench/base', ...registry),
  )
  clearInterval(watch)
  const kept = bytesIn(data) - before
  if (most > kept + BESIDE_BYTES) missed.push(`data folder: ${megabytes(most)} for a while`)
  line('  data folder', `+${megabytes(kept)}`, `at most +${megabytes(most)}`)
}

async function main(): Promise<void> {
  const at = (name: string) => join(folder, name)
  const size = parseSize(values.size)
  await makeModel(at('base'), { size, tensors: 40, bigTensor: parseSize(values['big-tensor']) })
  const server = await startServer(at('data'))
  try {
    const registry = ['--registry', server.url]
    await watched(server, `publish a base of ${values.size}`, ENCODE_BYTES, () =>
      timeWdelta('push', at('base'), 'bench/base', ...registry),
    )
    await makeTuned(at('tuned'), at('base'))
    await publishLossless(server, at('tuned'), registry)
    const options = ['--parent', 'bench/base', '--strategy', 'int4', ...registry]
    await watched(server, 'publish its fine-tune as int4', ENCODE_BYTES, () =>
      timeWdelta('push', at('tuned'), 'bench/tuned', ...options),
    )
    for (const name of ['base', 'lossless', 'tuned']) {
      const url = `${server.url}/models/bench%2F${name}/reconstruct`
      const alone = await watched(server, `${name}, alone`, STREAM_BYTES, () => download(url))
      report('one client', [alone])
      if (alone.firstByteSeconds > FIRST_BYTE_SECONDS) {
        missed.push(`${name}: first byte after ${alone.firstByteSeconds} s`)
      }
      const clients = `${FAST_CLIENTS} fast and ${SLOW_CLIENTS} slow clients`
      const fast = await watched(server, `${name}, ${clients}`, STREAM_BYTES, () => crowd(url))
      report('the fast ones together', fast)
    }
  } finally {
    await server.kill()
  }
}

try {
  await main()
} finally {
  rmSync(folder, { recursive: true })
}
if (missed.length > 0) {
  process.stdout.write(`over the limit: ${missed.join('; ')}\n`)
  process.exitCode = 1
}
