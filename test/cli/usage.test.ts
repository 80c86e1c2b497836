import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { goldenCase } from '../support/models/golden-cases.ts'
import { wdelta } from '../support/servers/wdelta-process.ts'

const COMMANDS = [
  'serve',
  'save',
  'load',
  'inspect',
  'verify',
  'push',
  'pull',
  'ls',
  'lineage',
  'rm',
  'token',
  'sweep',
  'scrub',
  'backup',
  'rebuild',
]

t.test('bad usage ends with exit code 2 and one line', async t => {
  const { base, deltas } = goldenCase('int4-bf16')
  const delta = deltas[0]!
  const models = ['--tuned', base, '--base', base]
  const cases: string[][] = [
    [],
    ['nope'],
    ['toString'],
    ['scour'],
    ['backup'],
    ['rebuild', 'now'],
    ['load'],
    ['load', delta],
    ['load', delta, '--base', base],
    ['load', delta, '--base', base, '--out', 'x', '--dtype', 'int8'],
    ['load', delta, '--base', base, '--out', 'x', '--unknown'],
    ['load', delta, '--base'],
    ['save', ...models],
    ['save', 'a.wdelta', 'b.wdelta', ...models],
    ['save', 'a.wdelta', '--base', base, '--strategy', 'int4'],
    ['save', 'a.wdelta', ...models, '--strategy', 'whole'],
    ['save', 'a.wdelta', ...models, '--strategy', 'sparse', '--sparsity', 'x'],
    ['save', 'a.wdelta', ...models, '--strategy', 'int4', '--sparsity', '0.5'],
    ['inspect'],
    ['verify'],
    ['serve', 'now'],
    ['push', base],
    ['push', base, 'a/b', '--strategy', 'best'],
    ['push', delta, 'a/b', '--strategy', 'int4'],
    ['push', base, 'a/b', '--registry', 'ftp://example.org'],
    ['pull', 'a/b'],
    ['pull', 'a/b', 'c/d', '--out', 'x'],
    ['lineage'],
    ['rm'],
    ['ls', 'a/b'],
    ['token'],
    ['token', 'make'],
    ['token', 'create', 'ci'],
    ['token', 'create', 'ci', '--scope', 'root'],
    ['token', 'revoke'],
    ['sweep', 'all'],
  ]
  t.jobs = 4
  for (const args of cases) {
    t.test(args.join(' ') || 'no arguments', async t => {
      t.match(await wdelta(...args), { code: 2, stdout: '', stderr: /^wdelta: [^\n]+\n$/ })
    })
  }
})

t.test('every command has its help, and the overview lists it', async t => {
  const overview = await wdelta('--help')
  t.match(overview, { code: 0, stderr: '' })
  t.equal((await wdelta('help')).stdout, overview.stdout)
  for (const name of COMMANDS) {
    t.match(overview.stdout, new RegExp(`\n  wdelta ${name}\\b`), name)
    const help = await wdelta(name, '--help')
    t.match(help, { code: 0, stderr: '' })
    t.match(help.stdout, new RegExp(`^usage: wdelta ${name}\\b[^\n]*\n\n\\S`), name)
  }
})

t.test('the version is the one of package.json', async t => {
  const packageJson = readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8')
  const { version } = JSON.parse(packageJson)
  t.match(await wdelta('--version'), { code: 0, stdout: `${version}\n`, stderr: '' })
  t.match((await wdelta('--help')).stdout, '\n  wdelta --version\n')
})
