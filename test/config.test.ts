import { totalmem } from 'node:os'
import t from 'tap'
import { ConfigError, readConfig } from '../src/config.ts'

const problemsOf = (env: Record<string, string>) => {
  try {
    readConfig(env)
    return []
  } catch (error) {
    if (error instanceof ConfigError) return error.problems
    throw error
  }
}

t.test('nothing given is safe: loopback, a folder, no tokens needed', async t => {
  t.match(readConfig({}), {
    host: '127.0.0.1',
    port: 8080,
    dataDir: './data',
    storage: { kind: 'folder' },
    auth: 'none',
    logLevel: 'info',
  })
  const config = readConfig({})
  for (const part of [config, config.storage, config.timeouts, config.timeouts.leastRate]) {
    t.ok(Object.isFrozen(part))
  }
})

t.test('the address of clients is where it listens, or PUBLIC_URL', async t => {
  t.match(readConfig({}), { isLoopback: true, publicUrl: undefined })
  t.match(readConfig({ HOST: '0.0.0.0' }), { isLoopback: false })
  for (const PUBLIC_URL of [
    'https://registry.example',
    'http://registry:8080/models/',
    'http://[::1]:80',
  ]) {
    t.match(readConfig({ PUBLIC_URL }), { publicUrl: PUBLIC_URL })
  }
  for (const PUBLIC_URL of [
    'registry.example',
    'registry:8080',
    'ftp://registry',
    '//registry',
    'x',
  ]) {
    t.match(problemsOf({ PUBLIC_URL }), [/^PUBLIC_URL: /], PUBLIC_URL)
  }
})

t.test('any other address wants tokens, or an explicit none', async t => {
  for (const HOST of ['0.0.0.0', '::', '10.0.0.1', 'example.test']) {
    t.equal(readConfig({ HOST }).auth, 'tokens', HOST)
    t.equal(readConfig({ HOST, AUTH: 'none' }).auth, 'none')
  }
  for (const HOST of ['localhost', '::1', '127.0.0.1', '127.9.9.9']) {
    t.equal(readConfig({ HOST }).auth, 'none', HOST)
    t.equal(readConfig({ HOST, AUTH: 'tokens' }).auth, 'tokens')
  }
})

t.test('every wrong variable is named', async t => {
  const problems = problemsOf({ PORT: '99999', STORAGE: 'tape', LOG_LEVEL: 'loud', WORKERS: '-1' })
  for (const name of ['PORT', 'STORAGE', 'LOG_LEVEL', 'WORKERS']) {
    t.ok(
      problems.some(line => line.startsWith(`${name}:`)),
      name,
    )
  }
  for (const PORT of ['1e3', '0x10', ' 80', '8080.0', '']) {
    t.equal(problemsOf({ PORT }).length, PORT === '' ? 0 : 1, JSON.stringify(PORT))
  }
})

t.test('all that is wrong is told at once', async t => {
  const problems = problemsOf({ PORT: 'x', STORAGE: 's3', S3_ENDPOINT: 'nowhere', S3_BUCKET: 'b' })
  t.strictSame(problems.map(line => line.split(':')[0]).sort(), [
    'PORT',
    'S3_ACCESS_KEY_ID',
    'S3_ENDPOINT',
    'S3_SECRET_ACCESS_KEY',
  ])
})

t.test('what contradicts itself is named, not ignored', async t => {
  t.match(problemsOf({ S3_BUCKET: 'models' }), [/^S3_BUCKET: /])
  t.strictSame(problemsOf({ S3_BUCKET: 'models', STORAGE: 'folder' }), [])
  t.match(problemsOf({ AUTH: 'none', ADMIN_TOKEN: 'a-secret-of-some-length' }), [/^ADMIN_TOKEN: /])
  t.strictSame(problemsOf({ ADMIN_TOKEN: 'a-secret-of-some-length' }), [])
})

t.test('no message repeats a secret', async t => {
  const secrets = { ADMIN_TOKEN: 'hunter2', S3_SECRET_ACCESS_KEY: 'hunter2-hunter2', PORT: 'x' }
  t.notMatch(problemsOf({ ...secrets, STORAGE: 's3' }).join(), /hunter2/)
})

t.test('how long a client may take, in the units of the variables', async t => {
  t.strictSame(readConfig({}).timeouts, {
    idleMs: 120_000,
    leastRate: { bytesPerSecond: 16_384, windowMs: 30_000 },
  })
  const env = { SOCKET_TIMEOUT_SECONDS: '5', UPLOAD_MIN_BYTES_PER_SECOND: '1', DRAIN_SECONDS: '0' }
  t.match(readConfig(env), {
    drainMs: 0,
    timeouts: { idleMs: 5000, leastRate: { bytesPerSecond: 1 } },
  })
  t.equal(problemsOf({ SOCKET_TIMEOUT_SECONDS: '0', UPLOAD_MIN_BYTES_PER_SECOND: '0' }).length, 2)
})

t.test('sizes and counts have defaults, and are at least 1', async t => {
  t.equal(readConfig({}).maxUploadBytes, 2 ** 40)
  t.equal(readConfig({ MAX_UPLOAD_BYTES: '1' }).maxUploadBytes, 1)
  t.ok(readConfig({}).workers >= 1)
  t.equal(readConfig({ WORKERS: '3', PORT: '0' }).workers, 3)
  t.equal(problemsOf({ MAX_UPLOAD_BYTES: '0', WORKERS: '0' }).length, 2)
})

t.test('limits, and what the process does by itself', async t => {
  const { limits, upkeep } = readConfig({})
  t.match(limits, { uploads: 16, downloads: 48, requestsPerMinute: 0 })
  t.ok(limits.rssBytes > 0 && limits.rssBytes < totalmem())
  t.match(upkeep, { sweepGraceMs: 3_600_000, leaseMs: 12_000, scrubBytesPerSecond: 0 })
  const env = {
    MAX_UPLOADS: '2',
    MAX_DOWNLOADS: '3',
    RATE_LIMIT_PER_MINUTE: '600',
    MAX_RSS_BYTES: '0',
    SWEEP_GRACE_SECONDS: '0',
    SCRUB_BYTES_PER_SECOND: '1000000',
  }
  const given = readConfig(env)
  t.strictSame(given.limits, { uploads: 2, downloads: 3, requestsPerMinute: 600, rssBytes: 0 })
  t.match(given.upkeep, { sweepGraceMs: 0, scrubBytesPerSecond: 1_000_000 })
  for (const name of Object.keys(env)) t.match(problemsOf({ [name]: '-1' }), [`${name}: `])
  t.equal(problemsOf({ MAX_UPLOADS: '0', MAX_DOWNLOADS: '0' }).length, 2)
})

t.test('S3 needs its bucket and keys', async t => {
  const problems = problemsOf({ STORAGE: 's3' })
  t.strictSame(
    problems.map(line => line.split(':')[0]),
    ['S3_BUCKET', 'S3_ACCESS_KEY_ID', 'S3_SECRET_ACCESS_KEY'],
  )
  const env = { STORAGE: 's3', S3_BUCKET: 'b', S3_ACCESS_KEY_ID: 'k', S3_SECRET_ACCESS_KEY: 's' }
  const cacheBytes = 10 * 2 ** 30
  t.match(readConfig(env).storage, { kind: 's3', bucket: 'b', prefix: '', cacheBytes })
  t.match(readConfig({ ...env, S3_PREFIX: 'a/b', S3_CACHE_BYTES: '0' }).storage, {
    prefix: 'a/b/',
    cacheBytes: 0,
  })
  t.match(readConfig({ ...env, S3_PREFIX: 'a/' }).storage, { prefix: 'a/' })
  t.equal(problemsOf({ ...env, S3_CACHE_BYTES: '1 GB' }).length, 1)
  t.equal(problemsOf({ ...env, S3_ENDPOINT: 'nowhere' }).length, 1)
})

t.test('a variable may stand in a file', async t => {
  const folder = t.testdir({ token: 'a-secret-of-some-length\n' })
  t.equal(readConfig({ ADMIN_TOKEN_FILE: `${folder}/token` }).adminToken, 'a-secret-of-some-length')
  const twice = { ADMIN_TOKEN: 'another-secret-token', ADMIN_TOKEN_FILE: `${folder}/token` }
  t.match(problemsOf(twice), [/ADMIN_TOKEN: given twice/])
  t.match(problemsOf({ ADMIN_TOKEN_FILE: `${folder}/none` }), [/ADMIN_TOKEN_FILE: ENOENT/])
})
