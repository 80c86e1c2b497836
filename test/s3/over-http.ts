import { once } from 'node:events'
import { createServer, request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { ListMultipartUploadsCommand, ListObjectsV2Command } from '@aws-sdk/client-s3'
import type { Model, SweepReport } from '../../src/registry/registry.ts'
import { openS3Client, type S3Options } from '../../src/storage/s3/client.ts'
import type { ServerProcess } from '../support/servers/server-process.ts'

/** The environment of a registry over a bucket. Nothing that an upload left is too young to be swept. */
export function environment(options: S3Options): Record<string, string> {
  return {
    STORAGE: 's3',
    S3_ENDPOINT: options.endpoint!,
    S3_BUCKET: options.bucket,
    S3_REGION: options.region,
    S3_ACCESS_KEY_ID: options.accessKeyId,
    S3_SECRET_ACCESS_KEY: options.secretAccessKey,
    S3_PREFIX: options.prefix,
    SWEEP_GRACE_SECONDS: '0',
    WORKERS: '2',
  }
}

export type Files = Readonly<Record<string, Buffer<ArrayBuffer>>>

/** Publishes files, or a `.wdelta`. Rejects for any answer but 201, and with TypeError for a connection that ended. */
export async function publish(
  { url }: ServerProcess,
  fields: Readonly<Record<string, string>>,
  files: Files,
): Promise<Model> {
  const form = new FormData()
  for (const [name, value] of Object.entries(fields)) form.set(name, value)
  const isDelta = Object.keys(files).some(path => path.endsWith('.wdelta'))
  for (const [path, bytes] of Object.entries(files)) {
    form.append(isDelta ? 'delta' : 'file', new Blob([bytes]), path)
  }
  const path = isDelta ? '/deltas' : '/models'
  const response = await fetch(url + path, { method: 'POST', body: form })
  if (response.status !== 201) throw new Error(`${response.status}: ${await response.text()}`)
  return (await response.json()) as Model
}

export async function get<T>({ url }: ServerProcess, path: string): Promise<T> {
  const response = await fetch(url + path)
  if (!response.ok) throw new Error(`GET ${path}: ${response.status}`)
  return (await response.json()) as T
}

export async function download({ url }: ServerProcess, path: string): Promise<Buffer> {
  const response = await fetch(url + path)
  if (!response.ok) throw new Error(`GET ${path}: ${response.status}`)
  return Buffer.from(await response.arrayBuffer())
}

export async function remove({ url }: ServerProcess, id: string): Promise<void> {
  const { status } = await fetch(`${url}/models/${id}`, { method: 'DELETE' })
  if (status !== 204) throw new Error(`DELETE ${id}: ${status}`)
}

export async function sweep({ url }: ServerProcess): Promise<SweepReport> {
  const headers = { 'content-type': 'application/json' }
  const response = await fetch(`${url}/admin/sweep`, { method: 'POST', headers, body: '{}' })
  return (await response.json()) as SweepReport
}

/** What a server says that is in a bucket. */
export interface BucketContents {
  readonly objects: readonly string[]
  /** Keys of multipart uploads that are neither completed nor aborted. */
  readonly uploads: readonly string[]
}

/** Names of all objects, but the record of who has the lease, and unfinished uploads of a bucket: there are less than a page of either. */
export async function contentsOf(options: S3Options): Promise<BucketContents> {
  const client = openS3Client(options)
  try {
    const Bucket = options.bucket
    const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket }))
    const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand({ Bucket }))
    const names = (found: readonly { Key?: string | undefined }[]) => found.map(({ Key }) => Key!)
    const objects = names(Contents).filter(name => !/(^|\/)owners\//.test(name))
    return { objects: objects.sort(), uploads: names(Uploads).sort() }
  } finally {
    client.destroy()
  }
}

/** Between a registry and a server: passes everything on, but for one completion of an upload that it is told to hold. */
export interface Gate extends AsyncDisposable {
  readonly url: string
  /** Lets so many completions pass; resolves once the next has come. That one is never answered, and the server hears of it only if `isDone`. */
  hold(passed: number, isDone?: boolean): Promise<void>
}

export async function startGate(upstream: string): Promise<Gate> {
  let held: { passed: number; isDone: boolean; resolve: () => void } | null = null
  const server = createServer(async (request, response) => {
    const isCompletion = request.method === 'POST' && /[?&]uploadId=/.test(request.url!)
    const hold = isCompletion && held && held.passed-- === 0 ? held : null
    if (hold) held = null
    if (hold && !hold.isDone) return hold.resolve()
    const { method, headers } = request
    const passed = httpRequest(upstream + request.url, { method, headers })
    // Either side may be gone at any time: then so is the other.
    passed.on('error', () => response.destroy())
    passed.on('response', answer => {
      if (hold) {
        answer.resume()
        return hold.resolve()
      }
      response.writeHead(answer.statusCode!, answer.headers)
      pipeline(answer, response).catch(() => {})
    })
    await pipeline(request, passed).catch(() => {})
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    hold: (passed, isDone = false) => {
      const { promise, resolve } = Promise.withResolvers<void>()
      held = { passed, isDone, resolve }
      return promise
    },
    [Symbol.asyncDispose]: async () => {
      server.close()
      server.closeAllConnections()
    },
  }
}
