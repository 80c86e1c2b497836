import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CreateBucketCommand } from '@aws-sdk/client-s3'
import { openS3Client, type S3Options } from '../../src/storage/s3/client.ts'

/** Milliseconds that a server may take to answer: it is another one's program, on a machine with two processors. */
const START_MS = 60_000
const CREDENTIALS = { accessKeyId: 'wdelta', secretAccessKey: 'wdelta-secret' }

/** A real S3 server in a process of its own, over a folder that goes with it. */
export interface S3Server extends AsyncDisposable {
  readonly name: string
  readonly url: string
  readonly pid: number
  /** Makes a bucket of its own for a test, and says how to get into it. */
  bucket(name: string): Promise<S3Options>
}

const SERVERS = {
  versitygw: (port: number, folder: string) => ({
    args: ['--port', `127.0.0.1:${port}`, '--quiet', 'posix', folder],
    env: {
      ROOT_ACCESS_KEY: CREDENTIALS.accessKeyId,
      ROOT_SECRET_KEY: CREDENTIALS.secretAccessKey,
    },
  }),
  minio: (port: number, folder: string) => ({
    args: ['server', '--quiet', '--address', `127.0.0.1:${port}`, folder],
    env: {
      MINIO_ROOT_USER: CREDENTIALS.accessKeyId,
      MINIO_ROOT_PASSWORD: CREDENTIALS.secretAccessKey,
      MINIO_BROWSER: 'off',
      MINIO_UPDATE: 'off',
    },
  }),
} as const

export type ServerName = keyof typeof SERVERS
export const SERVER_NAMES = Object.keys(SERVERS) as ServerName[]

/** The program of a server. Throws where it lacks: a suite over no server would pass. */
function program(name: string): string {
  const { S3_SERVERS } = process.env
  if (!S3_SERVERS) throw new Error('S3_SERVERS names no folder: see test/s3/setup.sh')
  const path = join(S3_SERVERS, name)
  accessSync(path, constants.X_OK)
  return path
}

/** A port that nothing listens on now. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

/** Starts a server; resolves once it answers. */
export async function startS3Server(name: ServerName): Promise<S3Server> {
  const root = mkdtempSync(join(tmpdir(), `wdelta-${name}-`))
  const folder = join(root, 'data')
  mkdirSync(folder)
  const port = await freePort()
  const { args, env } = SERVERS[name](port, folder)
  const { PATH, HOME } = process.env
  const child = spawn(program(name), args, { env: { PATH, HOME, ...env }, stdio: 'ignore' })
  const url = `http://127.0.0.1:${port}`
  const stop = async () => {
    await end(child)
    rmSync(root, { recursive: true, force: true })
  }
  try {
    await answers(url, child)
  } catch (error) {
    await stop()
    throw error
  }
  return {
    name,
    url,
    pid: child.pid!,
    bucket: async bucket => {
      const options = { endpoint: url, bucket, region: 'us-east-1', ...CREDENTIALS, prefix: '' }
      const client = openS3Client(options)
      await client.send(new CreateBucketCommand({ Bucket: bucket }))
      client.destroy()
      return options
    },
    [Symbol.asyncDispose]: stop,
  }
}

/** A fault of connections; `stream` is the direction from the client's side, `downstream` where it is not given. Source: the README of toxiproxy. */
export interface Toxic {
  readonly type: string
  readonly stream?: 'upstream' | 'downstream'
  readonly attributes: Readonly<Record<string, number>>
}

/** toxiproxy between a client and a server: connections that are slow, cut or reset. */
export interface Toxiproxy extends AsyncDisposable {
  /** Where the proxy of the server listens. */
  readonly url: string
  /** Adds a fault to every connection from now on. */
  add(toxic: Toxic): Promise<void>
  /** Takes all faults away. */
  clear(): Promise<void>
}

export async function startToxiproxy(upstream: string): Promise<Toxiproxy> {
  const [api, port] = [await freePort(), await freePort()]
  const child = spawn(program('toxiproxy'), ['-host', '127.0.0.1', '-port', String(api)], {
    stdio: 'ignore',
  })
  const base = `http://127.0.0.1:${api}`
  const call = async (method: string, path: string, body?: object) => {
    const response = await fetch(base + path, { method, body: body ? JSON.stringify(body) : null })
    if (!response.ok) throw new Error(`${method} ${path}: ${await response.text()}`)
    return response.json().catch(() => null)
  }
  await answers(`${base}/version`, child)
  const listen = `127.0.0.1:${port}`
  await call('POST', '/proxies', { name: 's3', listen, upstream: new URL(upstream).host })
  return {
    url: `http://${listen}`,
    add: async toxic => void (await call('POST', '/proxies/s3/toxics', toxic)),
    clear: async () => void (await call('POST', '/reset', {})),
    [Symbol.asyncDispose]: () => end(child),
  }
}

/** Resolves once anything at all is answered, but that it is too early. */
async function answers(url: string, child: ChildProcess): Promise<void> {
  const until = performance.now() + START_MS
  for (;;) {
    const answer = await fetch(url).catch(() => null)
    await answer?.body?.cancel()
    if (answer && answer.status !== 503) return
    if (child.exitCode !== null) throw new Error(`${child.spawnfile} ended with ${child.exitCode}`)
    if (performance.now() > until) throw new Error(`${child.spawnfile} does not answer`)
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.kill('SIGKILL')
  await ended
}
