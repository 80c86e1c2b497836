/**
 * Writes `openapi.yaml` from the route schemas; with `--check` it only compares, and fails if they differ.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { buildApp } from '../src/app.ts'
import type { Registry } from '../src/registry/registry.ts'
import { apiText } from '../src/rest/openapi.ts'

const PATH = new URL('../openapi.yaml', import.meta.url)

// Describing the routes asks nothing of a registry.
const app = await buildApp({
  registry: {} as Registry,
  auth: { mode: 'none' },
  maxUploadBytes: 0,
})
await app.ready()
const text = apiText(app)
await app.close()
if (!process.argv.includes('--check')) {
  writeFileSync(PATH, text)
} else if (readFileSync(PATH, 'utf8') !== text) {
  process.stderr.write('openapi.yaml is not what the routes say: npm run openapi\n')
  process.exitCode = 1
}
