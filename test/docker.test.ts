import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'
import { readConfig } from '../src/config.ts'

const root = join(import.meta.dirname, '..')
const compose = (name: string) => parse(readFileSync(join(root, 'docker', name), 'utf8'))

const HARDENED = {
  init: true,
  restart: 'unless-stopped',
  stop_grace_period: '45s',
  read_only: true,
  tmpfs: ['/tmp'],
  cap_drop: ['ALL'],
  security_opt: ['no-new-privileges:true'],
}

t.test('compose.yaml runs one hardened node over a volume', async t => {
  const { services, volumes } = compose('compose.yaml')
  t.strictSame(Object.keys(services), ['registry'])
  t.match(services.registry, { build: '..', volumes: ['data:/data'], ...HARDENED })
  t.hasOwnProp(volumes, 'data')
})

t.test('compose.s3.yaml runs one hardened node over a bucket', async t => {
  const { services, volumes, secrets } = compose('compose.s3.yaml')
  const { registry, s3 } = services
  t.strictSame(Object.keys(services), ['registry', 's3'])
  t.match(registry, { build: '..', volumes: ['data:/data'], ...HARDENED })
  t.match(registry.depends_on, { s3: { condition: 'service_healthy' } })
  // Its own health check is in the image.
  t.notOk(registry.healthcheck)
  t.match(s3, { volumes: ['bucket:/data'], healthcheck: { test: ['CMD'] }, ...HARDENED })
  t.match(s3.image, /:v\d+\.\d+\.\d+$/)
  t.notOk(s3.ports, 'nothing outside reaches the bucket')
  t.strictSame(Object.keys(volumes), ['data', 'bucket'])

  // As the container sees them, but that the paths of secrets are the secrets.
  const folder = t.testdir(Object.fromEntries(registry.secrets.map((name: string) => [name, name])))
  const env = Object.fromEntries(
    Object.entries<string>(registry.environment).map(([name, value]) => [
      name,
      value.replace('/run/secrets', folder),
    ]),
  )
  t.match(readConfig(env), {
    adminToken: 'admin_token',
    storage: {
      kind: 's3',
      endpoint: 'http://s3:7070',
      bucket: 'models',
      accessKeyId: 's3_access_key_id',
      secretAccessKey: 's3_secret_access_key',
    },
  })
  const ignored = readFileSync(join(root, '.gitignore'), 'utf8').split('\n')
  t.ok(ignored.includes('/docker/secrets/'))
  for (const name of [...registry.secrets, ...s3.secrets]) {
    t.equal(secrets[name].file, `secrets/${name}`)
  }
})

t.test('the image is made of files that exist and runs without rights', async t => {
  const file = readFileSync(join(root, 'Dockerfile'), 'utf8').replaceAll('\\\n', ' ')
  const lines = file.split('\n').filter(line => /^[A-Z]/.test(line))
  const copied = lines.filter(line => /^COPY (?!--from)/.test(line))
  const sources = copied.flatMap(line => line.split(' ').slice(1, -1))
  const kept = readFileSync(join(root, '.dockerignore'), 'utf8').split('\n')
  t.ok(sources.length > 0)
  for (const source of sources) {
    t.ok(existsSync(join(root, source)), source)
    t.ok(kept.includes(`!${source}`), `${source} is not ignored`)
  }
  t.ok(lines.indexOf('USER node') > 0)
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  // As `npm start` does it: settings of the environment, then the command.
  const words: string[] = scripts.start.split(' ')
  const command = words.filter(word => !/^[A-Z_]+=/.test(word))
  t.equal(lines.at(-1), `CMD ${JSON.stringify(command).replaceAll(',', ', ')}`)
  const settings = lines.filter(line => line.startsWith('ENV ')).join(' ')
  for (const word of words) if (!command.includes(word)) t.ok(settings.includes(word), word)
  t.match(file, /^HEALTHCHECK /m)
})
