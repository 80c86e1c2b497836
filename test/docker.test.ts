import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { parse } from 'yaml'

const root = join(import.meta.dirname, '..')

t.test('the compose file runs one hardened node over a volume', async t => {
  const { services, volumes } = parse(readFileSync(join(root, 'docker/compose.yaml'), 'utf8'))
  t.match(services.registry, { build: '..', init: true, read_only: true, volumes: ['data:/data'] })
  t.hasOwnProp(volumes, 'data')
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
  t.equal(lines.at(-1), 'CMD ["node", "src/main.ts"]')
  t.match(file, /^HEALTHCHECK /m)
})
