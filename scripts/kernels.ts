/**
 * Compiles the kernels' AssemblyScript to `src/codec/kernels/kernels.wasm`; with `--check` it compiles them elsewhere, and fails if the bytes differ
 * from those in the repository.
 */
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT, run } from './run.ts'

const COMPILE = ['--config', 'src/codec/kernels/assembly/asconfig.json']

if (process.argv.includes('--check')) check()
else run('asc', COMPILE)

function check(): void {
  const folder = join(ROOT, 'node_modules/.cache')
  mkdirSync(folder, { recursive: true })
  const rebuilt = join(folder, 'kernels.wasm')
  run('asc', [...COMPILE, '--outFile', rebuilt])
  const kept = readFileSync(join(ROOT, 'src/codec/kernels/kernels.wasm'))
  if (readFileSync(rebuilt).equals(kept)) return
  process.stderr.write('kernels.wasm is not what its sources compile to: npm run kernels\n')
  process.exitCode = 1
}
