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
  t.ok(Object.isFrozen(readConfig({})))
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

t.test('S3 needs its bucket and keys', async t => {
  const problems = problemsOf({ STORAGE: 's3' })
  t.strictSame(
    problems.map(line => line.split(':')[0]),
    ['S3_BUCKET', 'S3_ACCESS_KEY_ID', 'S3_SECRET_ACCESS_KEY'],
  )
  const env = { STORAGE: 's3', S3_BUCKET: 'b', S3_ACCESS_KEY_ID: 'k', S3_SECRET_ACCESS_KEY: 's' }
  t.match(readConfig(env).storage, { kind: 's3', bucket: 'b', prefix: '' })
  t.equal(problemsOf({ ...env, S3_ENDPOINT: 'nowhere' }).length, 1)
})

t.test('a variable may stand in a file', async t => {
  const folder = t.testdir({ token: 'a-secret-of-some-length\n' })
  t.equal(readConfig({ ADMIN_TOKEN_FILE: `${folder}/token` }).adminToken, 'a-secret-of-some-length')
  const twice = { ADMIN_TOKEN: 'another-secret-token', ADMIN_TOKEN_FILE: `${folder}/token` }
  t.match(problemsOf(twice), [/ADMIN_TOKEN: given twice/])
  t.match(problemsOf({ ADMIN_TOKEN_FILE: `${folder}/none` }), [/ADMIN_TOKEN_FILE: ENOENT/])
})
