import { type AddressInfo, connect, type Socket } from 'node:net'
import { type AppDeps, buildApp } from '../../../src/app.ts'
import { RegistryError } from '../../../src/errors.ts'
import type {
  Care,
  Content,
  Model,
  Models,
  Publish,
  Registry,
  Tokens,
  UploadPart,
} from '../../../src/registry/registry.ts'

export const ID = 'a'.repeat(40)

/** A model with a value for every member. */
export function aModel(members: Partial<Model> = {}): Model {
  return {
    id: ID,
    name: 'acme/model',
    revision: 'main',
    kind: 'delta',
    strategy: 'int4',
    parent: 'b'.repeat(40),
    tensors: 2,
    parameters: 12,
    dtypes: ['BF16', 'F32'],
    size: 1000,
    storedSize: 500,
    sha256: 'c'.repeat(64),
    hashes: { stored: 'd'.repeat(64), float32: null },
    files: [{ path: 'model.safetensors', size: 1000, sha256: 'e'.repeat(64) }],
    filesTotal: 1,
    error: { nmse: 0.25, maxAbs: 1e-9 },
    damaged: { file: 'model.safetensors', offset: 7, at: '2026-11-23T07:00:00.000Z' },
    message: 'hello',
    createdAt: '2026-11-23T07:00:00.000Z',
    ...members,
  }
}

/** The methods of a registry in one object, where those of two groups have the same name with the group before it. */
export type Methods = Models &
  Care & {
    readonly publishFiles: Publish['files']
    readonly publishDelta: Publish['delta']
    readonly createToken: Tokens['create']
    readonly listTokens: Tokens['list']
    readonly revokeToken: Tokens['revoke']
    readonly authenticate: Tokens['authenticate']
    readonly figures: Registry['figures']
  }

/** A registry that knows nothing: each method that a test needs is given. */
export function fakeRegistry(methods: Partial<Methods>): Registry {
  const { publishFiles, publishDelta, createToken, listTokens, revokeToken } = methods
  const figures = { badBlocks: 0, tasks: 0, cache: null, spareBytes: 0 }
  return {
    models: refusing<Models>(methods),
    care: refusing<Care>(methods),
    publish: refusing<Publish>({ files: publishFiles, delta: publishDelta }),
    tokens: refusing<Tokens>({
      create: createToken,
      list: listTokens,
      revoke: revokeToken,
      authenticate: methods.authenticate,
    }),
    figures: methods.figures ?? (() => figures),
    close: async () => {},
  }
}

/** Methods of which those that are missing reject. */
function refusing<T extends object>(methods: { readonly [K in keyof T]?: T[K] | undefined }): T {
  const refuse = (name: string) => async () => {
    throw new RegistryError('internal', `the test did not expect ${name}`)
  }
  return new Proxy(methods, {
    get: (target, name) => Reflect.get(target, name) ?? refuse(String(name)),
  }) as T
}

export const BYTES = Buffer.from(Array.from({ length: 1000 }, (_, i) => i % 251))

/** Content over `bytes` in chunks of 100; `seen` hears of what is asked for and how reading ends. */
export function aContent(
  bytes: Uint8Array = BYTES,
  members: Partial<Content> = {},
  seen: (event: string) => void = () => {},
): Content {
  return {
    size: bytes.length,
    etag: 'tag',
    sha256: 'c'.repeat(64),
    mediaType: 'application/octet-stream',
    filename: 'model.safetensors',
    async *open({ start, end }) {
      seen(`open ${start}-${end}`)
      try {
        for (let at = start; at < end; at += 100) yield bytes.slice(at, Math.min(end, at + 100))
      } finally {
        seen('closed')
      }
    },
    ...members,
  }
}

interface Teardown {
  teardown(fn: () => unknown): unknown
}

/** An app that listens on loopback until the test ends. */
export async function listen(
  t: Teardown,
  methods: Partial<Methods>,
  options: Partial<AppDeps> = {},
) {
  const app = await buildApp({
    registry: fakeRegistry(methods),
    auth: { mode: 'none' },
    maxUploadBytes: 10_000_000,
    ...options,
    timeouts: { lingerMs: 100, uploadWaitMs: 0, downloadWaitMs: 0, ...options.timeouts },
  })
  t.teardown(() => {
    app.server.closeAllConnections()
    return app.close()
  })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  return { app, url, port: (app.server.address() as AddressInfo).port }
}

/** A TCP connection that collects what comes back. */
export function dial(t: Teardown, port: number) {
  const socket: Socket = connect(port, '127.0.0.1')
  const chunks: Buffer[] = []
  const waiting = new Set<() => void>()
  const heard = () => Buffer.concat(chunks).toString('latin1')
  const told = () => {
    for (const wake of waiting) wake()
  }
  let ended = false
  socket.on('data', chunk => {
    chunks.push(chunk)
    told()
  })
  // A reset is one of the ways in which a server ends a connection.
  socket.on('error', () => {})
  socket.on('close', () => {
    ended = true
    told()
  })
  t.teardown(() => socket.destroy())
  /** What has been heard once it holds `text`, or all of it when the connection is closed. */
  const until = (text: string) =>
    new Promise<string>(resolve => {
      const look = () => {
        if (!ended && !heard().includes(text)) return
        waiting.delete(look)
        resolve(heard())
      }
      waiting.add(look)
      look()
    })
  return { socket, until, closed: () => until('\u0000 never sent'), heard }
}

/** Resolves when `seen` has been called with `event`. */
export function recorder() {
  const events: string[] = []
  const waiting = new Map<string, () => void>()
  const seen = (event: string) => {
    events.push(event)
    waiting.get(event)?.()
  }
  const happened = (event: string) =>
    new Promise<void>(resolve => {
      if (events.includes(event)) return resolve()
      waiting.set(event, resolve)
    })
  return { events, seen, happened }
}

/** Reads every part of an upload. */
export async function readParts(parts: AsyncIterable<UploadPart>) {
  const read: { field: string; path: string; bytes: Buffer }[] = []
  for await (const { field, path, body } of parts) {
    const chunks: Uint8Array[] = []
    for await (const chunk of body) chunks.push(chunk)
    read.push({ field, path, bytes: Buffer.concat(chunks) })
  }
  return read
}
