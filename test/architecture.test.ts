import { globSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'

const SRC = join(import.meta.dirname, '../src')

/** All of the codec but its door: code inside the project imports files. */
const CODEC = ['base', 'frames', 'kernels', 'lossy', 'plan', 'safetensors', 'wdelta'].map(
  folder => `codec/${folder}`,
)

/**
 * Which part of `src` may import which, in the order of its layers. A part is a folder with all that is below it and has no entry of its own, or
 * a file.
 */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  'errors.ts': [],
  'config.ts': [],
  'log.ts': ['config.ts'],
  'version.ts': [],

  'codec/base': [],
  'codec/safetensors': ['codec/base'],
  'codec/kernels': ['codec/base'],
  'codec/frames': ['codec/base', 'codec/kernels'],
  'codec/wdelta': ['codec/base', 'codec/safetensors', 'codec/frames'],
  'codec/plan': ['codec/base', 'codec/safetensors', 'codec/frames', 'codec/wdelta'],
  'codec/lossy': ['codec/base', 'codec/kernels', 'codec/frames', 'codec/wdelta'],
  codec: CODEC,

  workers: CODEC,
  'workers/encode': [
    'workers',
    'codec/base',
    'codec/safetensors',
    'codec/frames',
    'codec/wdelta',
    'codec/plan',
    'codec/lossy',
  ],
  'workers/thread': [
    'workers',
    'codec/base',
    'codec/kernels',
    'codec/frames',
    'codec/plan',
    'codec/lossy',
  ],

  storage: ['codec/base', 'errors.ts'],
  'storage/folder': ['storage', 'codec/base', 'errors.ts'],
  'storage/s3': ['storage', 'codec/base', 'errors.ts'],
  'storage/cache': ['storage', 'codec/base'],

  catalog: ['codec/base', 'errors.ts'],
  'catalog/sqlite': ['catalog', 'errors.ts'],

  'registry/log.ts': [],
  'registry/registry.ts': ['catalog', 'storage', 'codec/base', 'codec/wdelta'],
  'registry/translate.ts': ['workers', 'codec/base', 'errors.ts'],
  'registry/refs.ts': ['registry/registry.ts', 'catalog', 'errors.ts'],
  'registry/tokens.ts': ['registry/registry.ts', 'catalog', 'errors.ts'],
  'registry/holds': ['registry/log.ts', 'storage', 'errors.ts'],
  'registry/models': [
    'registry/registry.ts',
    'registry/translate.ts',
    'registry/holds',
    'catalog',
    'storage',
    'workers',
    'codec/base',
    'codec/safetensors',
    'codec/wdelta',
    'codec/plan',
    'errors.ts',
  ],
  'registry/publish': [
    'registry/registry.ts',
    'registry/translate.ts',
    'registry/refs.ts',
    'registry/holds',
    'registry/models',
    'catalog',
    'storage',
    'workers',
    'workers/encode',
    'codec/base',
    'codec/safetensors',
    'codec/wdelta',
    'codec/plan',
    'errors.ts',
  ],
  'registry/care': [
    'registry/registry.ts',
    'registry/log.ts',
    'registry/holds',
    'registry/models',
    'catalog',
    'storage',
    'workers',
    'codec/base',
    'codec/safetensors',
    'codec/wdelta',
    'codec/plan',
    'errors.ts',
  ],
  'registry/core.ts': [
    'registry/log.ts',
    'registry/holds',
    'registry/models',
    'registry/care',
    'catalog',
    'storage',
    'workers',
  ],
  'registry/groups': [
    'registry/registry.ts',
    'registry/core.ts',
    'registry/refs.ts',
    'registry/tokens.ts',
    'registry/models',
    'registry/publish',
    'registry/care',
    'catalog',
    'workers',
  ],
  registry: [
    'registry/registry.ts',
    'registry/log.ts',
    'registry/translate.ts',
    'registry/core.ts',
    'registry/groups',
    'registry/holds',
    'registry/models',
    'registry/care',
    'catalog',
    'storage',
    'workers',
  ],

  'http/problems': ['errors.ts'],
  'http/limits': ['http/problems', 'errors.ts'],
  http: ['http/problems', 'http/limits', 'registry/registry.ts', 'errors.ts'],
  rest: ['http', 'http/problems', 'http/limits', 'registry/registry.ts', 'errors.ts', 'version.ts'],

  'app.ts': ['rest', 'http', 'http/problems', 'http/limits', 'registry/registry.ts'],
  'upkeep.ts': ['registry/registry.ts', 'registry/log.ts'],
  'main.ts': [
    'app.ts',
    'upkeep.ts',
    'registry',
    'registry/models',
    'registry/care',
    'catalog/sqlite',
    'storage',
    'storage/folder',
    'storage/s3',
    'storage/cache',
    'workers',
    'config.ts',
    'log.ts',
    'version.ts',
  ],

  cli: ['codec/base'],
  'cli/remote': ['cli', 'codec/safetensors'],
  'cli/local': ['cli', 'workers', 'codec/base', 'codec/safetensors', 'codec/wdelta', 'codec/plan'],
  // `serve` and `rebuild` go through the server's own process, and load it when they are asked for.
  'cli/commands': [
    'cli',
    'cli/local',
    'cli/remote',
    'workers',
    'workers/encode',
    'codec/base',
    'codec/safetensors',
    'codec/wdelta',
    'codec/plan',
    'main.ts',
  ],
  'cli/wdelta.ts': ['cli', 'cli/commands', 'version.ts'],
}

/** What only one part may do, and the words that show it. */
const RESERVED: readonly { readonly to: readonly string[]; readonly words: RegExp }[] = [
  { to: ['config.ts', 'main.ts', 'cli'], words: /\bprocess\.env\b/ },
  { to: ['cli'], words: /\bWDELTA_/ },
  { to: ['catalog'], words: /\bfrom 'better-sqlite3'/ },
  { to: ['http', 'rest', 'app.ts', 'main.ts'], words: /\bfrom '(fastify|@fastify)\b/ },
]

interface Source {
  readonly path: string
  readonly part: string
  readonly text: string
  readonly imports: readonly string[]
}

function readSource(path: string): Source {
  const text = readFileSync(join(SRC, path), 'utf8')
  const found = text.matchAll(/\b(?:from|import)\s*\(?\s*'([^']+)'/g)
  // The package's own name and version are data, not code.
  const imports = Array.from(found, match => match[1]!).filter(name => !name.endsWith('.json'))
  return { path, part: partOf(path), text, imports }
}

/** The longest entry of the map that a file is in. */
function partOf(path: string): string {
  let part = path
  while (!(part in MAY_IMPORT)) {
    if (!part.includes('/')) throw new Error(`${path} has no place in the map`)
    part = dirname(part)
  }
  return part
}

/** Where an import leads: a path in `src`, or null for a package or Node's own module. */
function target(source: Source, specifier: string): string | null {
  return specifier.startsWith('.') ? join(dirname(source.path), specifier) : null
}

function targets(source: Source): string[] {
  return source.imports.flatMap(specifier => target(source, specifier) ?? [])
}

const sources = globSync('**/*.ts', {
  cwd: SRC,
  exclude: ['codec/kernels/assembly/**'],
}).map(readSource)

t.test('imports point one way, and all that is permitted is used', async t => {
  t.ok(sources.length > 0)
  const unused = new Set(
    Object.entries(MAY_IMPORT).flatMap(([from, to]) => to.map(part => `${from} -> ${part}`)),
  )
  for (const source of sources) {
    for (const path of targets(source)) {
      const part = partOf(path)
      unused.delete(`${source.part} -> ${part}`)
      const isAllowed = part === source.part || MAY_IMPORT[source.part]!.includes(part)
      t.ok(isAllowed, `${source.path} -> ${path}`)
    }
  }
  t.strictSame([...unused], [])
})

t.test('no part imports one that imports it, by whatever way', async t => {
  const seen = new Set<string>()
  const visit = (part: string, way: readonly string[]): void => {
    const at = way.indexOf(part)
    if (at >= 0) return void t.fail([...way.slice(at), part].join(' -> '))
    if (seen.has(part)) return
    for (const next of MAY_IMPORT[part]!) visit(next, [...way, part])
    seen.add(part)
  }
  for (const part of Object.keys(MAY_IMPORT)) visit(part, [])
  t.equal(seen.size, Object.keys(MAY_IMPORT).length)
})

t.test('no file imports one that imports it, types among what is imported', async t => {
  const imports = new Map(sources.map(source => [source.path, targets(source)]))
  const seen = new Set<string>()
  const visit = (path: string, way: readonly string[]): void => {
    const at = way.indexOf(path)
    if (at >= 0) return void t.fail([...way.slice(at), path].join(' -> '))
    if (seen.has(path)) return
    for (const next of imports.get(path) ?? []) visit(next, [...way, path])
    seen.add(path)
  }
  for (const path of imports.keys()) visit(path, [])
  t.ok(seen.size >= sources.length)
})

t.test('files and folders have a size that one reads at once', async t => {
  for (const { path, text } of sources) t.ok(text.split('\n').length <= 350, path)
  const folders = Map.groupBy(sources, ({ path }) => dirname(path))
  for (const [folder, files] of folders) t.ok(files.length <= 20, folder)
})

t.test('no type is talked over', async t => {
  for (const { path, text } of sources) t.notMatch(text, /\bas (unknown|any) as\b/, path)
})

t.test('the codec is pure', async t => {
  for (const source of sources.filter(({ part }) => part.startsWith('codec'))) {
    const foreign = source.imports.filter(specifier => target(source, specifier) === null)
    t.strictSame(foreign, [], `${source.path} imports nothing from outside`)
    t.notMatch(source.text, /\b(Buffer|process)\b\./, `${source.path} knows no Node`)
  }
})

t.test('stores and catalog know types of the codec, and run nothing of it', async t => {
  for (const { path, text } of sources.filter(({ part }) => /^(storage|catalog)/.test(part))) {
    t.notMatch(text, /^(import|export) (?!type )[^']*'[./]*\/codec\//m, path)
  }
})

t.test('what is reserved to a part stays in it', async t => {
  for (const { to, words } of RESERVED) {
    for (const { path, text } of sources) {
      const isFree = to.some(part => path === part || path.startsWith(`${part}/`))
      if (!isFree) t.notMatch(text, words, `${path}: ${words} belongs to ${to}`)
    }
  }
})

t.test('exports have names, and imports suffixes', async t => {
  for (const { path, text, imports } of sources) {
    t.notMatch(text, /^export default/m, path)
    for (const specifier of imports.filter(name => name.startsWith('.'))) {
      t.match(specifier, /\.(ts|wasm)$/, `${path} -> ${specifier}`)
    }
  }
})
