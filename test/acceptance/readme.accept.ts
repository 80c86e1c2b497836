import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import t, { type Test } from 'tap'

/** npm ci in the clone takes most of it. */
const TIMEOUT_MS = 240_000
const README_URL = 'http://127.0.0.1:8080'

const root = join(import.meta.dirname, '../..')
const clone = join(t.testdir({}), 'clone')

/** The `sh` blocks of a README section, as a reader pastes them. */
function commands(section: string): string {
  const readme = readFileSync(join(clone, 'README.md'), 'utf8')
  const text = readme.split(/^## /m).find(part => part.startsWith(`${section}\n`))
  if (text === undefined) throw new Error(`README.md has no section ${section}`)
  const blocks = Array.from(text.matchAll(/^```sh\n([^`]*)^```$/gm), match => match[1]!)
  if (blocks.length === 0) throw new Error(`README.md: ${section} has no commands`)
  return blocks.join('\n')
}

/** Runs what a section says, against the registry at `url`, and gives what it printed. */
function follow(t: Test, section: string, url: string): string {
  const script = commands(section).replaceAll(README_URL, url)
  const { status, stdout, stderr } = spawnSync('bash', ['-euxo', 'pipefail', '-c', script], {
    cwd: clone,
    encoding: 'utf8',
    env: { ...process.env, WDELTA_REGISTRY: url },
  })
  t.equal(status, 0, `${section}: ${stderr}`)
  return stdout
}

/** Starts what the README starts, but on a free port. */
async function start(command: string, env: Record<string, string>) {
  const child = spawn('bash', ['-c', `exec ${command}`], {
    cwd: clone,
    env: { ...process.env, PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  })
  const exited = once(child, 'exit')
  for await (const line of createInterface({ input: child.stdout! })) {
    const url = line.includes('listening') && /http:\/\/[\w.:]+/.exec(line)?.[0]
    if (!url) continue
    child.stdout!.resume()
    const stop = async () => {
      // The group: npm, its shell and the server, as Ctrl-C in a terminal does.
      process.kill(-child.pid!, 'SIGINT')
      await exited
    }
    return { url, stop }
  }
  throw new Error(`${command} ended without listening`)
}

t.test('a stranger follows the README in a fresh clone', { timeout: TIMEOUT_MS }, async t => {
  execFileSync('git', ['clone', '--quiet', root, clone])
  const [install, run, ...more] = commands('Run it').trim().split('\n')
  t.strictSame([install, run, more], ['npm ci', 'npm start', []])
  execFileSync('bash', ['-c', install!], { cwd: clone, stdio: 'pipe' })

  await t.test('it works without tokens, on loopback', async t => {
    const server = await start(run!, {})
    t.teardown(server.stop)
    const printed = follow(t, 'Up and down', server.url)
    t.match(printed, /"kind":\s*"delta"/)
    t.ok(existsSync(join(clone, 'code.safetensors')))
    t.match(follow(t, 'The command line', server.url), 'acme/')
  })

  await t.test('it works with tokens', async t => {
    const server = await start(run!, { AUTH: 'tokens' })
    t.teardown(server.stop)
    const { status } = await fetch(`${server.url}/models`)
    t.equal(status, 401)
    t.match(follow(t, 'Tokens', server.url), '"token"')
  })
})
