/** Makes `dist`, which an installed package runs: Node strips no types below `node_modules`. */
import { cpSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT, run } from './run.ts'

rmSync(join(ROOT, 'dist'), { recursive: true, force: true })
run('tsc', ['-p', 'tsconfig.build.json'])
// The codec is the package's library: it alone has declarations.
const declarations = ['--noEmit', 'false', '--emitDeclarationOnly', '--declaration']
const folders = ['--rootDir', 'src/codec', '--outDir', 'dist/codec']
run('tsc', ['-p', 'src/codec', ...declarations, ...folders])
const wasm = 'codec/kernels/kernels.wasm'
cpSync(join(ROOT, 'src', wasm), join(ROOT, 'dist', wasm))
