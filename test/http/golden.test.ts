import { globSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import t from 'tap'
import { buildApp } from '../../src/app.ts'
import type { Model } from '../../src/registry/registry.ts'
import { goldenCases } from '../support/models/golden-cases.ts'
import { openTestRegistry } from '../support/servers/test-registry.ts'

/** The bytes of a file as a form takes them. */
const file = (path: string) => new File([readFileSync(path)], basename(path))

async function post(url: string, form: FormData): Promise<Model> {
  const answer = await fetch(url, { method: 'POST', body: form })
  if (answer.status !== 201) throw new Error(await answer.text())
  return (await answer.json()) as Model
}

for (const { name, folder, deltas, hash } of goldenCases()) {
  t.test(`${name}: over HTTP, bit for bit what the reference makes of it`, async t => {
    const { registry } = await openTestRegistry(t)
    const app = await buildApp({ registry, auth: { mode: 'none' }, maxUploadBytes: 1e9 })
    t.teardown(() => app.close())
    const url = await app.listen({ host: '127.0.0.1', port: 0 })

    const base = new FormData()
    base.set('name', 'acme/base')
    for (const path of globSync(join(folder, 'base/*.safetensors')).sort()) {
      base.append('file', file(path))
    }
    await post(`${url}/models`, base)
    let model: Model | null = null
    for (const path of deltas) {
      const form = new FormData()
      form.set('name', 'acme/tuned')
      form.set('delta', file(path))
      model = await post(`${url}/deltas`, form)
    }
    t.equal(model!.hashes.float32, hash)

    const expected = readFileSync(join(folder, 'expected.safetensors'))
    const whole = `${url}/models/acme%2Ftuned/reconstruct?dtype=float32`
    t.equal(Buffer.compare(await (await fetch(whole)).bytes(), expected), 0)
    const range = { range: `bytes=100-${expected.length - 2}` }
    const part = await (await fetch(whole, { headers: range })).bytes()
    t.equal(Buffer.compare(part, expected.subarray(100, -1)), 0)
  })
}
