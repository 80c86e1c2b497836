import type { IncomingMessage } from 'node:http'
import { UsageError } from '../command.ts'
import { CliError } from '../failure.ts'
import { type Body, send } from './http.ts'

/** The members of a Model of the REST API (`openapi.yaml`) that the commands use. */
export interface RemoteModel {
  readonly id: string
  readonly name: string
  readonly revision: string
  readonly kind: string
  readonly strategy: string
  readonly parent: string | null
  readonly size: number
  readonly storedSize: number
  readonly files: readonly ModelFile[]
  readonly createdAt: string
}

/** A model in a list, which may have no files. */
export type ListedModel = Omit<RemoteModel, 'files'>

export interface ModelFile {
  readonly path: string
  readonly size: number
  readonly sha256: string
}

/** Options of every command that uses a registry. */
export const REGISTRY_OPTIONS = {
  registry: { type: 'string' },
  token: { type: 'string' },
} as const

/** The help of {@link REGISTRY_OPTIONS}. */
export const REGISTRY_HELP = `
  --registry URL   the registry; else WDELTA_REGISTRY, else http://127.0.0.1:8080
  --token TOKEN    else WDELTA_TOKEN, which other users of the machine cannot see in the process list`

/** Most bytes of an answer that is held in memory. */
const MAX_JSON_BYTES = 256 * 1024 * 1024
/** Milliseconds without a byte after which a download is given up, to be tried again. */
const IDLE_MS = 60_000

/** The REST API of one registry. */
export interface RegistryClient {
  /** Sends `body` as JSON and returns the JSON of the answer; undefined for an answer without a body. */
  call<T>(method: string, path: string, signal: AbortSignal, body?: unknown): Promise<T>
  /** Sends a form. There is no limit to how long the answer takes. */
  upload<T>(path: string, form: Body, signal: AbortSignal): Promise<T>
  /** Downloads bytes from `start` on. The answer has status 206, or 200 with all bytes. */
  download(path: string, start: number, signal: AbortSignal): Promise<IncomingMessage>
}

/**
 * A client of the registry that options or environment name. Its methods reject with CliError: with code and detail of the registry's problem
 * document, with `http-<status>` for other errors, or `unreachable`. @throws UsageError for a malformed URL.
 */
export function openClient(values: {
  registry?: string | undefined
  token?: string | undefined
}): RegistryClient {
  const { WDELTA_REGISTRY, WDELTA_TOKEN } = process.env
  const base = parseRegistry(values.registry ?? WDELTA_REGISTRY ?? 'http://127.0.0.1:8080')
  const token = values.token ?? WDELTA_TOKEN
  const authorization: Record<string, string> = token ? { authorization: `Bearer ${token}` } : {}
  const ask = async (
    method: string,
    path: string,
    { body = null, headers = {}, idleMs = null }: Partial<AskOptions>,
    signal: AbortSignal,
  ) => {
    const all = { accept: '*/*', 'accept-encoding': 'identity', ...authorization, ...headers }
    const url = new URL(base + path)
    let incoming: IncomingMessage
    try {
      incoming = await send(url, { method, headers: all, body, idleMs }, signal)
    } catch (error) {
      throw unreachable(base, error, signal)
    }
    const status = incoming.statusCode!
    if (status >= 200 && status < 300) return incoming
    throw await problem(incoming, status)
  }
  return {
    call: async <T>(method: string, path: string, signal: AbortSignal, body?: unknown) =>
      (await readJson(await ask(method, path, { body: asBody(body) }, signal))) as T,
    upload: async <T>(path: string, body: Body, signal: AbortSignal) =>
      (await readJson(await ask('POST', path, { body }, signal))) as T,
    download: (path, start, signal) => {
      const headers: Record<string, string> = start > 0 ? { range: `bytes=${start}-` } : {}
      return ask('GET', path, { headers, idleMs: IDLE_MS }, signal)
    },
  }
}

interface AskOptions {
  readonly body: Body | null
  readonly headers: Readonly<Record<string, string>>
  readonly idleMs: number | null
}

/** All items of a paged list, which are under `key`. `query` is without its `?`. Rejects as {@link RegistryClient.call}. */
export async function callPages<T>(
  client: RegistryClient,
  { path, query = '', key }: { path: string; query?: string; key: string },
  signal: AbortSignal,
): Promise<T[]> {
  const items: T[] = []
  let cursor: string | null = null
  do {
    const asked = new URLSearchParams(query)
    if (cursor !== null) asked.set('cursor', cursor)
    const url: string = asked.size > 0 ? `${path}?${asked}` : path
    const page = await client.call<{ [list: string]: T[] } & { next?: string | null }>(
      'GET',
      url,
      signal,
    )
    for (const item of page[key]!) items.push(item)
    cursor = page.next ?? null
  } while (cursor !== null)
  return items
}

/** The path of a model in the API; `ref` is an id, `namespace/name` or `namespace/name@revision`. */
export function modelPath(ref: string): string {
  return `/models/${encodeURIComponent(ref)}`
}

function parseRegistry(text: string): string {
  const url = URL.parse(text)
  if (!url || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw new UsageError(`expected an http or https URL of a registry, got ${JSON.stringify(text)}`)
  }
  return url.href.replace(/\/+$/, '')
}

function asBody(value: unknown): Body | null {
  if (value === undefined) return null
  const bytes = Buffer.from(JSON.stringify(value))
  const chunks = async function* () {
    yield bytes
  }
  return { type: 'application/json', length: bytes.length, chunks: chunks() }
}

async function readJson(incoming: IncomingMessage): Promise<unknown> {
  const text = await readText(incoming)
  if (text === '') return undefined
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new CliError('bad-answer', `expected JSON, got ${text.slice(0, 200)}`, { cause })
  }
}

async function readText(incoming: IncomingMessage): Promise<string> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of incoming as AsyncIterable<Uint8Array>) {
    size += chunk.length
    if (size > MAX_JSON_BYTES) throw new CliError('bad-answer', 'the answer is too long')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

/** The error of an answer: see RFC 9457. */
async function problem(incoming: IncomingMessage, status: number): Promise<CliError> {
  // Taken first: an answer that has ended has no socket.
  const { socket } = incoming
  const text = await readText(incoming).catch(() => '')
  // After an upload that was refused half way, the connection cannot be used again.
  socket.destroy()
  const said = asProblem(text)
  const title = incoming.statusMessage ?? ''
  if (!said) return new CliError(`http-${status}`, text.slice(0, 200).trim() || title)
  return new CliError(said.code, said.detail ?? said.title ?? title)
}

function asProblem(text: string): { code: string; detail?: string; title?: string } | null {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value !== 'object' || value === null || !('code' in value)) return null
    const { code, detail, title } = value as Record<string, unknown>
    if (typeof code !== 'string') return null
    return {
      code,
      ...(typeof detail === 'string' && { detail }),
      ...(typeof title === 'string' && { title }),
    }
  } catch {
    return null
  }
}

function unreachable(base: string, error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted || error instanceof CliError) return error
  // If several addresses refuse, Node gives an AggregateError with an empty message.
  const { message, code } = error as NodeJS.ErrnoException
  return new CliError('unreachable', `${base}: ${message || code}`, { cause: error })
}
