import { globSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import root from 'tap'
import { openSqliteCatalog } from '../../../src/catalog/sqlite/catalog.ts'
import { openRegistry, type RegistryDeps } from '../../../src/registry/open-registry.ts'
import type { Content, ListedModel, Registry, UploadPart } from '../../../src/registry/registry.ts'
import type { BlobStore } from '../../../src/storage/blob-store.ts'
import { openFolderBlobStore } from '../../../src/storage/folder/blob-store.ts'
import { openPool } from '../../../src/workers/pool.ts'

interface Teardown {
  testdir(): string
  teardown(fn: () => unknown): unknown
}

/** Starting threads takes longer than most tests: they share a pool. */
let sharedPool: ReturnType<typeof openPool> | undefined
root.teardown(async () => (await sharedPool)?.close())

/** A registry on a folder of the test's own, closed with it. */
export async function openTestRegistry(
  t: Teardown,
  folder = t.testdir(),
  options: Partial<RegistryDeps> = {},
) {
  return openRegistryOver(t, folder, await openFolderBlobStore(join(folder, 'store')), options)
}

/** A pause that lasts until it is given up: a lease with it is never renewed by itself. */
export function endlessPause(_ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}

/** A registry on a blob store, with its catalog in a folder; both are closed with the test. */
export async function openRegistryOver(
  t: Teardown,
  folder: string,
  blobs: BlobStore,
  options: Partial<RegistryDeps> = {},
) {
  const catalog = await openSqliteCatalog(join(folder, 'registry.sqlite'))
  sharedPool ??= openPool({ workers: 2 })
  const pool = await sharedPool
  const closeParts = async () => {
    await catalog.close()
    await blobs.close()
  }
  const deps = { catalog, blobs, pool, scratch: folder, sweepGraceMs: 0 }
  const lease = { pause: endlessPause, ...options.lease }
  const registry = await openRegistry({ ...deps, ...options, lease }).catch(async error => {
    await closeParts()
    throw error
  })
  const close = async () => {
    await registry.close()
    await closeParts()
  }
  t.teardown(close)
  return { registry, catalog, blobs, pool, folder, close }
}

const SIGNAL = new AbortController().signal

/** A part whose body comes in chunks of `chunk` bytes. */
export function part(path: string, bytes: Uint8Array, field = 'file', chunk = 1000): UploadPart {
  const body = async function* () {
    for (let at = 0; at < bytes.length; at += chunk) yield bytes.subarray(at, at + chunk)
  }
  return { field, path, body: body() }
}

async function* each(parts: readonly UploadPart[]) {
  yield* parts
}

/** The safetensors files of a folder as parts. */
export function folderParts(folder: string): UploadPart[] {
  const paths = globSync(join(folder, '*.safetensors')).sort()
  return paths.map(path => part(basename(path), readFileSync(path)))
}

/** Publishes files as `acme/<name>`. */
export function publish(
  registry: Registry,
  parts: readonly UploadPart[],
  options: Partial<Parameters<Registry['publish']['files']>[0]> = {},
) {
  const defaults = { name: 'acme/model', revision: 'main', message: '' }
  return registry.publish.files({ ...defaults, ...options }, each(parts), SIGNAL)
}

/** Publishes a `.wdelta`, with side files. */
export function publishWdelta(
  registry: Registry,
  bytes: Uint8Array,
  options: Partial<Parameters<Registry['publish']['delta']>[0]> = {},
  sides: readonly UploadPart[] = [],
) {
  const defaults = { name: 'acme/delta', revision: 'main', message: '' }
  const parts = [part('delta.wdelta', bytes, 'delta'), ...sides]
  return registry.publish.delta({ ...defaults, ...options }, each(parts), SIGNAL)
}

/** The bytes of a content, or of a range of it. */
export async function bytesOf(
  content: Content,
  range = { start: 0, end: content.size },
): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  for await (const chunk of content.open(range, SIGNAL)) chunks.push(chunk.slice())
  return Buffer.concat(chunks)
}

/** The same object, with something done before each call of one method, which is told what the method is called with. */
export function before<T extends object>(
  object: T,
  method: keyof T,
  work: (...args: readonly unknown[]) => Promise<unknown>,
): T {
  return new Proxy(object, {
    get: (target, name, proxy) => {
      const member = Reflect.get(target, name)
      // A store may be its own origin.
      if (member === target) return proxy
      if (typeof member !== 'function') return member
      if (name !== method) return member.bind(target)
      return async (...args: unknown[]) => {
        await work(...args)
        return member.apply(target, args)
      }
    },
  })
}

/** All models of a lineage, from the base on. */
export async function lineageOf(registry: Registry, ref: string): Promise<ListedModel[]> {
  const lineage: ListedModel[] = []
  let cursor: string | null | undefined
  while (cursor !== null) {
    const page = await registry.models.lineage(ref, { limit: 1000, cursor })
    lineage.push(...page.lineage)
    cursor = page.next
  }
  return lineage
}
