import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Model } from '../../src/registry/registry.ts'
import { type Container, type Image, readCompose, startService } from './container.ts'

const ROOT = join(import.meta.dirname, '../..')
const PAIRS = join(ROOT, 'test/fixtures/pairs')
const URL = 'http://127.0.0.1:8080'
/** The fine-tune, and what it is made from. */
const LINEAGE = ['base', 'sft-300'] as const
const FILES = ['model.safetensors', 'config.json'] as const

t.setTimeout(600_000)
const scratch = mkdtempSync(join(tmpdir(), 'wdelta-image-'))
t.teardown(() => rmSync(scratch, { recursive: true, force: true }))

/** The folder that image.sh fills; IMAGE_FOLDER names it where that was done before. */
const { IMAGE_FOLDER = build(join(scratch, 'image')) } = process.env

function build(folder: string): string {
  execFileSync(join(import.meta.dirname, 'image.sh'), [folder], { stdio: 'pipe' })
  return folder
}

const image: Image = {
  root: join(IMAGE_FOLDER, 'image'),
  config: JSON.parse(readFileSync(join(IMAGE_FOLDER, 'image.json'), 'utf8')).Docker.config,
}

/** What stands in for the image of versitygw, which has its program and the tools of Alpine's busybox. */
function gateway(): Image {
  const { S3_SERVERS } = process.env
  if (!S3_SERVERS) throw new Error('S3_SERVERS names no folder: see test/s3/setup.sh')
  const root = join(IMAGE_FOLDER, 'debian')
  cpSync(join(S3_SERVERS, 'versitygw'), join(root, 'usr/local/bin/versitygw'))
  // It is what it is called.
  cpSync('/bin/busybox', join(root, 'usr/local/bin/wget'))
  return { root, config: { Env: ['PATH=/usr/local/bin:/usr/bin'] } }
}

/** Starts a container that goes with the test. */
function start(t: Test, ...args: Parameters<typeof startService>): Container {
  const container = startService(...args)
  t.teardown(() => container.kill())
  return container
}

const bearer = (token: string) => ['--header', `Authorization: Bearer ${token.trim()}`]

/** Publishes the base and its fine-tune, and gives the models. */
async function publish(t: Test, container: Container, token: string): Promise<Model[]> {
  const models: Model[] = []
  for (const name of LINEAGE) {
    const parent = models.at(-1)
    const fields = [`name=acme/${name}`, ...(parent ? [`parent=${parent.id}`] : [])]
    const files = FILES.map(file => `file=@${join(PAIRS, name, file)}`)
    const form = [...fields, ...files].flatMap(part => ['--form', part])
    const answer = await container.curl(...bearer(token), ...form, `${URL}/models`)
    models.push(JSON.parse(answer) as Model)
  }
  t.match(models, [{ kind: 'base' }, { kind: 'delta', strategy: 'lossless' }])
  return models
}

/** Whether every file of the models comes back byte for byte. */
async function checkFiles(
  t: Test,
  container: Container,
  token: string,
  models: readonly Model[],
): Promise<void> {
  const out = join(t.testdir({}), 'file')
  for (const [i, name] of LINEAGE.entries()) {
    for (const file of FILES) {
      const url = `${URL}/models/${models[i]!.id}/files/${file}`
      await container.curl(...bearer(token), '--output', out, url)
      const published = readFileSync(join(PAIRS, name, file))
      t.equal(Buffer.compare(readFileSync(out), published), 0, `${name}/${file}`)
    }
  }
}

/** Whether a process has no rights and no writable file system, as the compose files want it. */
async function checkHardened(t: Test, container: Container, id: number): Promise<void> {
  const status = readFileSync(`/proc/${container.pid}/status`, 'utf8')
  for (const kind of ['Uid', 'Gid']) t.match(status, `\n${kind}:${`\t${id}`.repeat(4)}\n`, kind)
  for (const set of ['Inh', 'Prm', 'Eff', 'Bnd', 'Amb']) {
    t.match(status, `\nCap${set}:\t${'0'.repeat(16)}\n`, set)
  }
  t.match(status, '\nNoNewPrivs:\t1\n', 'no new privileges')
  // Root owns the files: what keeps it off is the mount.
  for (const path of ['/new', '/usr/new', '/etc/passwd']) {
    await t.rejects(container.exec(['touch', path], 'root'), /Read-only file system/, path)
  }
  for (const folder of ['/tmp', '/data']) {
    await t.resolves(container.exec(['touch', join(folder, 'new')]), folder)
    await container.exec(['rm', join(folder, 'new')])
  }
}

t.test('the image takes and returns models, with its file system read-only', async t => {
  const { registry } = readCompose(join(ROOT, 'docker/compose.yaml')).services
  const around = { volumes: { data: join(scratch, 'data') } }
  const container = start(t, registry!, image, around)
  await container.healthy()
  for (const path of ['healthz', 'readyz', 'metrics', 'openapi.yaml', 'docs/']) {
    await t.resolves(container.curl(`${URL}/${path}`), path)
  }
  await checkHardened(t, container, 1000)
  t.equal(await container.exec(['id', '-un']), 'node\n')
  for (const path of ['/app/new', '/app/src/new']) {
    await t.rejects(container.exec(['touch', path]), /Read-only file system/, path)
  }
  // A health check that no server answers.
  const [, ...check] = image.config.Healthcheck!.Test
  await t.rejects(container.exec(['env', 'PORT=1', ...check]))

  const token = await container.exec(['cat', '/data/admin-token'])
  await t.rejects(container.curl(`${URL}/models`), /401/)
  const models = await publish(t, container, token)
  await checkFiles(t, container, token, models)
  t.equal(await container.stop(), 0)

  const again = start(t, registry!, image, around)
  await again.healthy()
  await checkFiles(t, again, token, models)
  t.equal(await again.stop(), 0)
})

t.test('the services of compose.s3.yaml take and return models', async t => {
  const file = join(ROOT, 'docker/compose.s3.yaml')
  const { services, secrets } = readCompose(file)
  const clone = join(scratch, 'clone')
  mkdirSync(join(clone, 'docker'), { recursive: true })
  const [make] = Array.from(
    readFileSync(file, 'utf8').matchAll(/^# {3}(.*)$/gm),
    ([, line]) => line,
  )
  execFileSync('sh', ['-euc', make!], { cwd: clone })
  const files = Object.entries(secrets!).map(([name, { file }]) => [
    name,
    join(clone, 'docker', file),
  ])
  const around = {
    volumes: { data: join(scratch, 'catalog'), bucket: join(scratch, 'bucket') },
    secrets: Object.fromEntries(files),
    hosts: Object.keys(services),
  }
  const { registry, s3 } = services
  const server = start(t, s3!, gateway(), around)
  await server.healthy()
  await checkHardened(t, server, 0)
  await t.rejects(server.curl('http://127.0.0.1:7070/models'), /403/)

  const node = () => start(t, registry!, image, { ...around, beside: server })
  const container = node()
  await container.healthy()
  await checkHardened(t, container, 1000)
  const token = readFileSync(around.secrets['admin_token'], 'utf8')
  const models = await publish(t, container, token)
  t.equal(await container.stop(), 0)
  // The catalog is left, and the room for deletions on a full disk: what is read now comes from the bucket.
  rmSync(join(around.volumes.data, 'cache'), { recursive: true })
  t.strictSame(readdirSync(around.volumes.data).sort(), ['.reserve', 'registry.sqlite'])

  const again = node()
  await again.healthy()
  await checkFiles(t, again, token, models)
  t.equal(await again.stop(), 0)
  t.equal(await server.stop(), 0)
})
