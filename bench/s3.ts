/**
 * Reconstruct from a bucket, one client, beside a plain GET of as many bytes from the same S3 server, in one run:
 *
 *     S3_SERVERS=DIR node bench/s3.ts [--size 300M] [--runs 5] [--server versitygw|minio]
 *
 * Cold: the registry has reconstructed another model, and has nothing of this one in its cache. Warm: the same model once more. A figure is
 * the median of `--runs`. Exits 1 if a ratio is below its target, or if the second reconstruct of a model reads the bucket again.
 * `test/s3/setup.sh` prints DIR.
 */
import { createReadStream, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { PutObjectCommand } from '@aws-sdk/client-s3'
import { openS3Client, type S3Options } from '../src/storage/s3/client.ts'
import { type ServerName, startS3Server } from '../test/s3/servers.ts'
import { type ServerProcess, startServer } from '../test/support/servers/server-process.ts'
import { makeModel, parseSize } from './make-model.ts'
import { download, line, median, megabytes, peakOf, timeWdelta } from './measure.ts'
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
    server: { type: 'string', default: 'versitygw' },
  },
})
/** Least part of the rate of a plain GET. */
const TARGETS: Readonly<Record<'base' | Delta, number>> = {
  base: 0.8,
  int4: 0.8,
  sparse: 0.8,
  quantized: 0.8,
  light: 0.8,
  dense: 0.5,
}
const NAMES = ['base', ...DELTAS] as const
const PLAIN = 'plain.safetensors'
/** Of no model that is measured. */
const OTHER = 'bench/other'

interface Run {
  readonly plain: number
  readonly cold: number
  readonly warm: number
  /** Chunks that the second download waited for from the bucket. */
  readonly misses: number
  readonly peak: number
}

const folder = mkdtempSync(join(tmpdir(), 'wdelta-s3-'))
const data = join(folder, 'data')
const size = parseSize(values.size)
await makeModels(folder, size)
await makeModel(join(folder, 'other'), { size, tensors: 40, seed: 9 })
await using s3 = await startS3Server(values.server as ServerName)
const bucket = await s3.bucket('bench')
await putPlain(bucket)
try {
  const first = await serve()
  await publishModels(first.url, folder)
  await timeWdelta('push', join(folder, 'other'), OTHER, '--registry', first.url)
  await first.stop()
  const runs = new Map<string, Run[]>(NAMES.map(name => [name, []]))
  for (let i = 0; i < Number(values.runs); i++) {
    for (const name of NAMES) runs.get(name)!.push(await once(name))
  }
  report(runs)
} finally {
  rmSync(folder, { recursive: true })
}

/** The bytes of a fine-tune as one object. */
async function putPlain({ bucket: Bucket, ...rest }: S3Options): Promise<void> {
  const path = join(folder, 'dense/model.safetensors')
  const client = openS3Client({ bucket: Bucket, ...rest })
  const Body = createReadStream(path)
  const ContentLength = statSync(path).size
  await client.send(new PutObjectCommand({ Bucket, Key: PLAIN, Body, ContentLength }))
  client.destroy()
}

/** A registry over the bucket. */
function serve(): Promise<ServerProcess> {
  return startServer(data, {
    STORAGE: 's3',
    S3_ENDPOINT: bucket.endpoint!,
    S3_BUCKET: bucket.bucket,
    S3_ACCESS_KEY_ID: bucket.accessKeyId,
    S3_SECRET_ACCESS_KEY: bucket.secretAccessKey,
  })
}

/** A plain GET, and two downloads of a model from a registry that has nothing in its cache. Rates are bytes per second. */
async function once(name: (typeof NAMES)[number]): Promise<Run> {
  rmSync(join(data, 'cache'), { recursive: true })
  const server = await serve()
  try {
    const keys = `${bucket.accessKeyId}:${bucket.secretAccessKey}`
    const unsigned = 'x-amz-content-sha256: UNSIGNED-PAYLOAD'
    const signed = ['--aws-sigv4', `aws:amz:${bucket.region}:s3`, '--user', keys, '-H', unsigned]
    await download(reconstructOf(server.url, OTHER))
    const plain = await download(`${bucket.endpoint}/${bucket.bucket}/${PLAIN}`, ...signed)
    const cold = await download(reconstructOf(server.url, `bench/${name}`))
    const before = await missesOf(server)
    const warm = await download(reconstructOf(server.url, `bench/${name}`))
    const misses = (await missesOf(server)) - before
    const rate = ({ bytes, seconds }: { bytes: number; seconds: number }) => bytes / seconds
    const rates = { plain: rate(plain), cold: rate(cold), warm: rate(warm) }
    return { ...rates, misses, peak: peakOf(server.pid) }
  } finally {
    await server.stop()
  }
}

async function missesOf({ url }: ServerProcess): Promise<number> {
  const metrics = await (await fetch(`${url}/metrics`)).text()
  return Number(/^wdelta_cache_chunks\{outcome="miss"\} (\d+)$/m.exec(metrics)![1])
}

function report(runs: ReadonlyMap<string, readonly Run[]>): void {
  const missed: string[] = []
  const of = (name: string, what: keyof Run) => median(runs.get(name)!.map(run => run[what]))
  line('', 'plain GET', 'cold', 'ratio', 'warm', 'ratio', 'target', 'peak RSS')
  for (const name of NAMES) {
    const title = name === 'base' ? 'a base' : titleOf(name)
    const plain = of(name, 'plain')
    const ratios = { cold: of(name, 'cold') / plain, warm: of(name, 'warm') / plain }
    for (const [when, ratio] of Object.entries(ratios)) {
      if (ratio < TARGETS[name]) missed.push(`${title}, ${when}: ${ratio.toFixed(2)}x`)
    }
    const misses = runs.get(name)!.reduce((sum, run) => sum + run.misses, 0)
    if (misses > 0) missed.push(`${title}: ${misses} chunks were fetched again`)
    line(
      title,
      `${megabytes(plain)}/s`,
      `${megabytes(of(name, 'cold'))}/s`,
      `${ratios.cold.toFixed(2)}x`,
      `${megabytes(of(name, 'warm'))}/s`,
      `${ratios.warm.toFixed(2)}x`,
      `>= ${TARGETS[name]}x`,
      megabytes(of(name, 'peak')),
    )
  }
  if (missed.length === 0) return
  process.stdout.write(`below target: ${missed.join('; ')}\n`)
  process.exitCode = 1
}
