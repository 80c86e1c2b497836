import { type EventEmitter, once } from 'node:events'
import { openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Logger, pino } from 'pino'
import t from 'tap'
import { readConfig } from '../src/config.ts'
import { openLog, withoutSecrets } from '../src/log.ts'

const WDR = `wdr_0123456789abcdef_${'ab'.repeat(32)}01234567`
const HUB = `hf_${'aB3'.repeat(12)}`

/** Ends a log; resolves when all its lines are in its file, and that is closed. */
async function ended(log: Logger): Promise<void> {
  const streams = log as unknown as { [key: symbol]: EventEmitter & { end(): void } }
  const stream = streams[pino.symbols.streamSym]!
  const closed = once(stream, 'close')
  stream.end()
  await closed
}

t.test('a line without credentials, wherever they stand', async t => {
  const leaks: readonly [what: string, logged: unknown][] = [
    ['a header', { req: { headers: { authorization: `Bearer ${WDR}` } } }],
    ['of an unknown scheme', { headers: { Authorization: `Token my-own-password` } }],
    ['deep down', { a: { b: { c: { d: { 'proxy-authorization': 'Basic my-own-password' } } } } }],
    ['with quotes', { headers: { cookie: 'a="my-own-password"; b=my-own-password' } }],
    ['of an answer', { headers: { 'set-cookie': 'my-own-password' } }],
    ['of another service', { headers: { 'X-Amz-Security-Token': 'my-own-password' } }],
    ['in raw pairs', { rawHeaders: ['Host', 'x', 'Authorization', 'my-own-password'] }],
    ['several values', { headers: { authorization: ['Bearer my-own-password'] } }],
    ['in an address', { url: '/models?token=my-own-password&limit=1' }],
    ['of any name', { url: '/models?limit=1&access_token=my-own-password' }],
    ['in front of an address', { endpoint: 'http://user:my-own-password@bucket:9000/x' }],
    ['a token of ours in a path', { url: `/models/${WDR}` }],
    ['a token of a hub', { msg: `no such thing: ${HUB}` }],
    ['quoted in a text', { err: { message: `{"authorization":"Bearer my-own-password"}` } }],
    [
      'in the packet that was no HTTP',
      { err: { stack: `GET / Authorization: bearer  my-own-password\r\n` } },
    ],
  ]
  for (const [what, logged] of leaks) {
    const line = JSON.stringify({ level: 10, ...(logged as object), end: 'kept' })
    const shown = withoutSecrets(line, [])
    t.notMatch(shown, /my-own-password|abababab|aB3aB3/, what)
    t.match(JSON.parse(shown), { level: 10, end: 'kept' }, `${what}: still JSON`)
  }
  const plain = JSON.stringify({
    url: '/models?limit=1&parent=acme/base',
    id: 'a'.repeat(40),
    endpoint: 'http://bucket:9000/a@b',
    msg: 'a "basic" thing; the token is not known here, or it has expired',
  })
  t.equal(withoutSecrets(plain, []), plain, 'what is no secret stays')
})

t.test('the log hides the secrets of the configuration, in any place', async t => {
  const path = join(t.testdir({}), 'log')
  const secret = 'the "admin" says \\ friend'
  const log = openLog(
    readConfig({ ADMIN_TOKEN: secret, AUTH: 'tokens', LOG_LEVEL: 'trace' }),
    openSync(path, 'w'),
  )
  const error = Object.assign(new Error(`no such token: ${secret}`), {
    rawPacket: Buffer.from(`Authorization: Bearer ${secret}`),
  })
  log.trace({ asked: [secret] }, 'who?')
  log.child({ token: secret }).error({ err: error }, secret)
  log.error(error)
  await ended(log)
  const lines = readFileSync(path, 'utf8').trim().split('\n')
  t.equal(lines.length, 3)
  for (const line of lines) {
    t.notMatch(line, 'friend')
    t.notMatch(line, 'rawPacket')
    t.ok(JSON.parse(line))
  }
})

t.test('a secret too short to be told from other words is not looked for', async t => {
  const path = join(t.testdir({}), 'log')
  const log = openLog(readConfig({ ADMIN_TOKEN: 'level', AUTH: 'tokens' }), openSync(path, 'w'))
  log.info('hello')
  await ended(log)
  t.match(JSON.parse(readFileSync(path, 'utf8')), { level: 30, msg: 'hello' })
})
