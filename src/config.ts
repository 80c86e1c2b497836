import { readFileSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import { z } from 'zod'

/** Where blobs are kept: a folder of `dataDir`, or a bucket. */
type StorageConfig =
  | { readonly kind: 'folder' }
  | {
      readonly kind: 's3'
      /** Undefined: AWS itself. */
      readonly endpoint: string | undefined
      readonly bucket: string
      readonly region: string
      readonly accessKeyId: string
      readonly secretAccessKey: string
      readonly prefix: string
      /** Most bytes of the local cache. */
      readonly cacheBytes: number
    }

/** The configuration of the server, read once from the environment and deeply frozen. Sizes are bytes. */
export interface Config {
  readonly host: string
  readonly port: number
  readonly dataDir: string
  readonly storage: StorageConfig
  /** `none` only on loopback, or if asked for. */
  readonly auth: 'tokens' | 'none'
  readonly adminToken: string | undefined
  /** The address that clients use if it is not `host` and `port`: an absolute http or https URL. */
  readonly publicUrl: string | undefined
  /** Whether only this machine can reach `host`. */
  readonly isLoopback: boolean
  readonly workers: number
  readonly maxUploadBytes: number
  readonly logLevel: 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent'
  /** How long requests may continue after SIGTERM, milliseconds. */
  readonly drainMs: number
  readonly limits: {
    readonly uploads: number
    readonly downloads: number
    /** Most requests a minute of one token, or without tokens of one address; 0 for no limit. */
    readonly requestsPerMinute: number
    /** Resident memory above which nothing new is taken on; 0 for no limit. */
    readonly rssBytes: number
  }
  readonly upkeep: {
    /** Least age of the remains of an upload when they are swept, milliseconds. */
    readonly sweepGraceMs: number
    /** Between two sweeps, milliseconds. */
    readonly sweepEveryMs: number
    /** Age at which a lease of the blob store that was not renewed goes to another registry, milliseconds. */
    readonly leaseMs: number
    /** Rate at which a background scrub reads; 0 for no scrub. */
    readonly scrubBytesPerSecond: number
  }
  /** How long a client may take. Other time limits are not configurable. */
  readonly timeouts: {
    /** Between two bytes in either direction, milliseconds. Uploads have `leastRate` instead. */
    readonly idleMs: number
    readonly leastRate: { readonly bytesPerSecond: number; readonly windowMs: number }
  }
}

/** The problems with the environment, one line for each variable. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    super(`the environment cannot be used:\n${problems.map(line => `  ${line}`).join('\n')}`)
    this.problems = problems
  }
}

const TEBIBYTE = 2 ** 40
/** Milliseconds between two sweeps. They can be rare, as the remains of uploads cost nothing but space. */
const SWEEP_EVERY_MS = 3_600_000
/** Milliseconds over which the rate of an upload is measured: long enough for a client to pause. */
const RATE_WINDOW_MS = 30_000
/** Variables without which a bucket cannot be opened. */
const S3_REQUIRED = ['S3_BUCKET', 'S3_ACCESS_KEY_ID', 'S3_SECRET_ACCESS_KEY'] as const

const integer = (least: number, most: number) =>
  z
    .string()
    .regex(/^\d{1,15}$/, 'expected an integer')
    .transform(Number)
    .pipe(z.number().min(least).max(most))

/** Bytes of memory that this process may use: the machine's, or its container's limit. */
function memoryBytes(): number {
  return Math.min(totalmem(), process.constrainedMemory() || Number.POSITIVE_INFINITY)
}

const SCHEMA = z.object({
  HOST: z.string().default('127.0.0.1'),
  PORT: integer(0, 65_535).default(8080),
  DATA_DIR: z.string().default('./data'),
  STORAGE: z.enum(['folder', 's3']).default('folder'),
  S3_ENDPOINT: z.url().optional(),
  S3_BUCKET: z.string().optional(),
  S3_REGION: z.string().optional(),
  S3_ACCESS_KEY_ID: z.string().optional(),
  S3_SECRET_ACCESS_KEY: z.string().optional(),
  S3_PREFIX: z.string().default(''),
  S3_CACHE_BYTES: integer(0, Number.MAX_SAFE_INTEGER).default(10 * 2 ** 30),
  AUTH: z.enum(['auto', 'tokens', 'none']).default('auto'),
  ADMIN_TOKEN: z.string().optional(),
  PUBLIC_URL: z.url({ protocol: /^https?$/ }).optional(),
  // One for each processor: the main thread mostly waits.
  WORKERS: integer(1, 256).default(availableParallelism()),
  // Larger than any model; a full disk refuses earlier.
  MAX_UPLOAD_BYTES: integer(1, Number.MAX_SAFE_INTEGER).default(TEBIBYTE),
  // Each upload holds some frames in memory, and all share the processors.
  MAX_UPLOADS: integer(1, 10_000).default(16),
  MAX_DOWNLOADS: integer(1, 10_000).default(48),
  RATE_LIMIT_PER_MINUTE: integer(0, 10_000_000).default(0),
  MAX_RSS_BYTES: integer(0, Number.MAX_SAFE_INTEGER).default(Math.floor(memoryBytes() * 0.85)),
  LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']).default('info'),
  DRAIN_SECONDS: integer(0, 3600).default(30),
  // Longer than any pause of an upload under way.
  SWEEP_GRACE_SECONDS: integer(0, 31_536_000).default(3600),
  // Three renewals, so that the lease survives a bucket that fails for some seconds.
  LEASE_SECONDS: integer(3, 86_400).default(12),
  SCRUB_BYTES_PER_SECOND: integer(0, TEBIBYTE).default(0),
  // Slower than any link used for models, faster than a client that only holds a connection open.
  UPLOAD_MIN_BYTES_PER_SECOND: integer(1, TEBIBYTE).default(16 * 1024),
  SOCKET_TIMEOUT_SECONDS: integer(1, 86_400).default(120),
})

type Environment = z.infer<typeof SCHEMA>
type Variable = keyof Environment
const VARIABLES = Object.keys(SCHEMA.shape) as Variable[]

/**
 * The configuration that an environment describes (`README.md`, "Deploy"). Each variable may also be given as `NAME_FILE`, the path of a
 * file that holds it. An empty variable counts as not given.
 * @throws ConfigError with a line for every variable with a problem
 */
export function readConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const problems: string[] = []
  const given = Object.fromEntries(VARIABLES.map(name => [name, readVariable(env, name, problems)]))
  const parsed = SCHEMA.safeParse(given)
  for (const { path, message } of parsed.error?.issues ?? []) {
    problems.push(`${path.join('.')}: ${message}`)
  }
  problems.push(...contradictions(given))
  if (!parsed.success || problems.length > 0) throw new ConfigError(problems)
  return toConfig(parsed.data)
}

/** Problems of variables that are valid alone but not together, such as one that would silently have no effect. */
function contradictions(given: Readonly<Partial<Record<Variable, string | undefined>>>): string[] {
  const problems: string[] = []
  if (given.STORAGE === 's3') {
    for (const name of S3_REQUIRED) {
      if (given[name] === undefined) problems.push(`${name}: required with STORAGE=s3`)
    }
  }
  if (given.STORAGE === undefined && given.S3_BUCKET !== undefined) {
    problems.push('S3_BUCKET: given without STORAGE, which must say s3 or folder')
  }
  if (given.AUTH === 'none' && given.ADMIN_TOKEN !== undefined) {
    problems.push('ADMIN_TOKEN: given with AUTH=none, which lets everybody in without one')
  }
  return problems
}

function toConfig(data: Environment): Config {
  const leastRate = { bytesPerSecond: data.UPLOAD_MIN_BYTES_PER_SECOND, windowMs: RATE_WINDOW_MS }
  return Object.freeze({
    host: data.HOST,
    port: data.PORT,
    dataDir: data.DATA_DIR,
    storage: Object.freeze(toStorage(data)),
    auth: readAuth(data.AUTH, data.HOST),
    adminToken: data.ADMIN_TOKEN,
    publicUrl: data.PUBLIC_URL,
    isLoopback: isLoopback(data.HOST),
    workers: data.WORKERS,
    maxUploadBytes: data.MAX_UPLOAD_BYTES,
    logLevel: data.LOG_LEVEL,
    drainMs: data.DRAIN_SECONDS * 1000,
    limits: Object.freeze({
      uploads: data.MAX_UPLOADS,
      downloads: data.MAX_DOWNLOADS,
      requestsPerMinute: data.RATE_LIMIT_PER_MINUTE,
      rssBytes: data.MAX_RSS_BYTES,
    }),
    upkeep: Object.freeze({
      sweepGraceMs: data.SWEEP_GRACE_SECONDS * 1000,
      sweepEveryMs: SWEEP_EVERY_MS,
      leaseMs: data.LEASE_SECONDS * 1000,
      scrubBytesPerSecond: data.SCRUB_BYTES_PER_SECOND,
    }),
    timeouts: Object.freeze({
      idleMs: data.SOCKET_TIMEOUT_SECONDS * 1000,
      leastRate: Object.freeze(leastRate),
    }),
  })
}

function readVariable(
  env: Readonly<Record<string, string | undefined>>,
  name: Variable,
  problems: string[],
): string | undefined {
  const value = env[name] || undefined
  const file = env[`${name}_FILE`] || undefined
  if (file === undefined) return value
  if (value !== undefined) {
    problems.push(`${name}: given twice, also as ${name}_FILE`)
    return value
  }
  try {
    // Editors and secret stores put a line break at the end.
    return readFileSync(file, 'utf8').replace(/\r?\n$/, '') || undefined
  } catch (error) {
    problems.push(`${name}_FILE: ${(error as Error).message}`)
    return undefined
  }
}

/** The storage of an environment without contradictions. */
function toStorage(data: Environment): StorageConfig {
  if (data.STORAGE === 'folder') return { kind: 'folder' }
  return {
    kind: 's3',
    endpoint: data.S3_ENDPOINT,
    bucket: data.S3_BUCKET!,
    region: data.S3_REGION ?? 'us-east-1',
    accessKeyId: data.S3_ACCESS_KEY_ID!,
    secretAccessKey: data.S3_SECRET_ACCESS_KEY!,
    prefix:
      data.S3_PREFIX === '' || data.S3_PREFIX.endsWith('/') ? data.S3_PREFIX : `${data.S3_PREFIX}/`,
    cacheBytes: data.S3_CACHE_BYTES,
  }
}

/** `auto`: tokens are required, unless only this machine can reach the registry. */
function readAuth(auth: 'auto' | 'tokens' | 'none', host: string): 'tokens' | 'none' {
  if (auth !== 'auto') return auth
  return isLoopback(host) ? 'none' : 'tokens'
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host)
}
