/**
 * The process: reads the environment, opens the parts, listens, and on SIGTERM lets requests finish before it closes them in the
 * opposite order.
 */
import { existsSync } from 'node:fs'
import { chmod, mkdir, open, readdir } from 'node:fs/promises'
import { enableCompileCache } from 'node:module'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import type { BlobStore } from './storage/blob-store.ts'

/**
 * Older ones end with a syntax error in what is imported below, or a segmentation fault in better-sqlite3. This file keeps to what
 * they can parse.
 */
const MIN_NODE = 24

/** Of what the process makes, its user has all rights and nobody else any. SQLite's files can be had in no other way. */
const PRIVATE_UMASK = 0o077
/** What earlier builds made in the data folder for everybody to read: the catalog, and the folders of a store and of a cache. */
const ONCE_PUBLIC =
  /^(registry\.sqlite(-wal|-shm)?|blobs|manifests|catalogs|tombstones|staged|cache)$/

/** How often a drain looks for connections that have had their last answer, milliseconds. */
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

/** Runs the registry until a signal ends it; its exit code is 1 if it cannot start. */
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
    // Whatever the log level: who starts the process waits for this line.
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
 * Makes a lost catalog again from the blob store that the environment names, with no server running, and tells what it found. Rejects
 * with RegistryError `catalog-failed` for a catalog that has models.
 */
export async function rebuild(): Promise<Adoption> {
  const config = configure()
  await using parts = new AsyncDisposableStack()
  // What it tells goes to stdout, so its log does not.
  const log = openLog(config, 2)
  return await rebuildCatalog(await openStores(config, parts, log), { log })
}

/** The environment's configuration; the process ends where it cannot be used. */
function configure(): Config {
  try {
    return readConfig(process.env)
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    process.stderr.write(`${error.message}\n`)
    process.exit(1)
  }
}

/** Opens what the registry stands on; `parts` closes it again, last opened first. */
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
    // Long ones, and as many short ones.
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
  // Models and hashes of tokens are for nobody else on this machine, whatever the umask says. The folder itself stays as its owner made it.
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

/** Takes from other users of this machine what they could once read. What the process may not change is told, and stays. */
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
  // The SDK is only loaded where there is a bucket: it takes longer than everything else.
  const { openS3BlobStore } = await import('./storage/s3/blob-store.ts')
  const { endpoint, bucket, cacheBytes } = storage
  const remote = await openS3BlobStore(storage, found =>
    log.info({ endpoint, bucket, ...found }, 'what the bucket can do'),
  )
  return openCachedBlobStore(remote, join(dataDir, 'cache'), cacheBytes)
}

/** Who may come in. The first start with tokens leaves an admin token in a file: nobody could create one otherwise. */
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

/** New connections are refused at once, requests under way may finish until the deadline, then they are cut. */
async function drain(app: FastifyInstance, deadlineMs: number): Promise<void> {
  const deadline = setTimeout(() => app.server.closeAllConnections(), deadlineMs)
  // Node closes the connections that are idle now. Those that become it later would stay for as long as their clients like.
  const idle = setInterval(() => app.server.closeIdleConnections(), IDLE_CHECK_MS)
  await app.close()
  clearInterval(idle)
  clearTimeout(deadline)
}
