/**
 * The process: reads the environment, opens the parts and listens. On SIGTERM it lets requests finish, then closes the parts in reverse
 * order.
 */
import { existsSync } from 'node:fs'
import { chmod, mkdir, open, readdir } from 'node:fs/promises'
import { enableCompileCache } from 'node:module'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import type { BlobStore } from './storage/blob-store.ts'

/**
 * Least major version of Node. Older ones fail with a syntax error in the imports below, or a segmentation fault in better-sqlite3. They can parse
 * this file.
 */
const MIN_NODE = 24

/** Only the user of the process has access to files that it creates. SQLite's files cannot be protected in another way. */
const PRIVATE_UMASK = 0o077
/** Entries of the data folder that earlier versions created readable for everybody: the catalog, the store and the cache. */
const ONCE_PUBLIC =
  /^(registry\.sqlite(-wal|-shm)?|blobs|manifests|catalogs|tombstones|staged|cache)$/

/** Milliseconds between two looks for idle connections while draining. */
const IDLE_CHECK_MS = 100

if (Number.parseInt(process.versions.node, 10) < MIN_NODE) {
  process.stderr.write(
    `the registry needs Node 24, this is ${process.version}; npm start brings its own on Linux\n`,
  )
  process.exit(1)
}
enableCompileCache()

const { buildApp } = await import('./app.ts')
const { openSqliteCatalog } = await import('./catalog/sqlite/catalog.ts')
const { ConfigError, readConfig } = await import('./config.ts')
const { openLog } = await import('./log.ts')
const { rebuildCatalog } = await import('./registry/care/adopt.ts')
const { openBytesWithin } = await import('./registry/models/open-budget.ts')
const { openRegistry } = await import('./registry/open-registry.ts')
const { startUpkeep } = await import('./upkeep.ts')
const { VERSION } = await import('./version.ts')
const { openCachedBlobStore } = await import('./storage/cache/blob-store.ts')
const { DiskRoom } = await import('./storage/disk-room.ts')
const { openFolderBlobStore } = await import('./storage/folder/blob-store.ts')
const { boundHeapGrowth } = await import('./workers/garbage.ts')
const { openPool } = await import('./workers/pool.ts')
type Config = ReturnType<typeof readConfig>
type Registry = Awaited<ReturnType<typeof openRegistry>>
type Adoption = Awaited<ReturnType<typeof rebuildCatalog>>

if (import.meta.main) await serve()

/** Runs the registry until a signal ends it. Sets exit code 1 if it cannot start. */
export async function serve(): Promise<void> {
  boundHeapGrowth()
  const config = configure()
  const logger = openLog(config, 1)
  const parts = new AsyncDisposableStack()
  let draining = false
  try {
    const registry = await openParts(config, parts, logger)
    const upkeep = { ...config.upkeep, maxRssBytes: config.limits.rssBytes }
    parts.use(startUpkeep(registry, upkeep, logger))
    const auth = await openAuth(config, registry, logger)
    const app = await buildApp({
      registry,
      auth,
      site: config,
      maxUploadBytes: config.maxUploadBytes,
      timeouts: config.timeouts,
      limits: config.limits,
      logger,
      draining: () => draining,
    })
    parts.defer(() => app.close())
    const url = await app.listen({
      host: config.host,
      port: config.port,
      listenTextResolver: address => `bound to ${address}`,
    })
    // At any log level: whoever starts the process waits for this line.
    logger
      .child({}, { level: 'info' })
      .info({ url, version: VERSION, dataDir: config.dataDir, auth: config.auth }, 'listening')
    const signal = await stopSignal()
    draining = true
    logger.info({ signal }, 'draining')
    await drain(app, config.drainMs)
  } catch (error) {
    logger.fatal(error, 'the registry cannot start')
    process.exitCode = 1
  } finally {
    await parts.disposeAsync()
  }
}

/**
 * Rebuilds a lost catalog from the blob store that the environment names, and returns what it found. No server may be running. Rejects
 * with RegistryError `catalog-failed` for a catalog that has models, and `store-in-use` while a server uses the store.
 */
export async function rebuild(): Promise<Adoption> {
  const config = configure()
  await using parts = new AsyncDisposableStack()
  // The command prints its findings to stdout, so the log goes to stderr.
  const log = openLog(config, 2)
  return await rebuildCatalog(await openStores(config, parts, log), { log })
}

/** The configuration from the environment. Ends the process if there is a problem with it. */
function configure(): Config {
  try {
    return readConfig(process.env)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    process.stderr.write(`${error.message}\n`)
    process.exit(1)
  }
}

/** Opens the registry and what it is built on; `parts` closes all of it, last opened first. */
async function openParts(
  config: Config,
  parts: AsyncDisposableStack,
  log: Logger,
): Promise<Registry> {
  const { dataDir, maxUploadBytes, workers, upkeep, limits } = config
  const stores = await openStores(config, parts, log)
  const pool = parts.use(await openPool({ workers }))
  const { sweepGraceMs, leaseMs } = upkeep
  const registry = await openRegistry({
    ...stores,
    pool,
    scratch: dataDir,
    sweepGraceMs,
    lease: { staleMs: leaseMs },
    maxModelBytes: maxUploadBytes,
    // Long and short downloads have as many slots each.
    maxStreams: 2 * limits.downloads,
    openBytes: openBytesWithin(limits.rssBytes),
    log,
  })
  parts.defer(() => registry.close())
  await stores.room.fill()
  return registry
}

async function openStores(config: Config, parts: AsyncDisposableStack, log: Logger) {
  const { dataDir } = config
  // No other user of this machine may read models and hashes of tokens, whatever the umask was. An existing folder keeps its own mode.
  process.umask(PRIVATE_UMASK)
  await mkdir(dataDir, { recursive: true, mode: 0o700 })
  await closeToOthers(dataDir, log)
  const path = join(dataDir, 'registry.sqlite')
  const room = new DiskRoom(path)
  const catalog = await room.lend(() => openSqliteCatalog(path))
  parts.defer(() => catalog.close())
  const blobs = await openBlobs(config, log)
  parts.defer(() => blobs.close())
  return { catalog, blobs, room }
}

/** Makes entries that other users of this machine could once read private. Warns of those that the process may not change. */
async function closeToOthers(dataDir: string, log: Logger): Promise<void> {
  for (const entry of await readdir(dataDir, { withFileTypes: true })) {
    const isFolder = entry.isDirectory()
    if (!ONCE_PUBLIC.test(entry.name) || !(isFolder || entry.isFile())) continue
    const path = join(dataDir, entry.name)
    await chmod(path, isFolder ? 0o700 : 0o600).catch(error => {
      log.warn({ err: error, path }, 'other users of this machine may be able to read this')
    })
  }
}

async function openBlobs({ storage, dataDir }: Config, log: Logger): Promise<BlobStore> {
  if (storage.kind === 'folder') return openFolderBlobStore(dataDir)
  // Loaded only if there is a bucket: the SDK takes longer to load than everything else.
  const { openS3BlobStore } = await import('./storage/s3/blob-store.ts')
  const { endpoint, bucket, cacheBytes } = storage
  const remote = await openS3BlobStore(storage, found =>
    log.info({ endpoint, bucket, ...found }, 'what the bucket can do'),
  )
  return openCachedBlobStore(remote, join(dataDir, 'cache'), cacheBytes)
}

/** Who has access. The first start with tokens creates an admin token, in a file: without one, nobody could create tokens. */
async function openAuth(config: Config, registry: Registry, logger: Logger) {
  if (config.auth === 'none') return { mode: 'none' } as const
  const { adminToken } = config
  const path = join(config.dataDir, 'admin-token')
  if (adminToken === undefined && !existsSync(path)) {
    const { token } = await registry.tokens.create({ name: 'first admin', scope: 'admin' })
    const file = await open(path, 'wx', 0o600)
    try {
      await file.writeFile(`${token}\n`)
      await file.sync()
    } finally {
      await file.close()
    }
    logger.warn({ path }, 'an admin token was created: it is in this file')
  }
  return { mode: 'tokens', adminToken } as const
}

/** Resolves at the first SIGTERM or SIGINT; a second one ends the process at once. */
function stopSignal(): Promise<NodeJS.Signals> {
  const { promise, resolve } = Promise.withResolvers<NodeJS.Signals>()
  let asked = false
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (asked) process.exit(1)
      asked = true
      resolve(signal)
    })
  }
  return promise
}

/** Refuses new connections at once, lets requests under way finish within `deadlineMs`, then cuts them off. */
async function drain(app: FastifyInstance, deadlineMs: number): Promise<void> {
  const deadline = setTimeout(() => app.server.closeAllConnections(), deadlineMs)
  // Closing the server closes connections that are idle now. Those that become idle later would stay as long as their clients like.
  const idle = setInterval(() => app.server.closeIdleConnections(), IDLE_CHECK_MS)
  await app.close()
  clearInterval(idle)
  clearTimeout(deadline)
}
