import { globSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import t from 'tap'

const SRC = join(import.meta.dirname, '../src')

/** Which part of `src` may import which: a folder, or a file of its own, by the name it has there. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  codec: [],
  'errors.ts': [],
  'config.ts': [],
  workers: ['codec'],
  storage: ['errors.ts'],
  catalog: ['errors.ts', 'codec'],
  registry: ['codec', 'workers', 'errors.ts', 'storage', 'catalog'],
  http: ['registry', 'errors.ts'],
  'log.ts': ['config.ts'],
  'app.ts': ['http', 'registry', 'errors.ts', 'config.ts'],
  'upkeep.ts': ['registry'],
  'main.ts': [
    'app.ts',
    'upkeep.ts',
    'http',
    'registry',
    'catalog',
    'storage',
    'workers',
    'errors.ts',
    'config.ts',
    'log.ts',
  ],
  cli: ['codec', 'workers'],
}

/** What only one part may do, and the words that show it. */
const RESERVED: readonly { readonly to: readonly string[]; readonly words: RegExp }[] = [
  { to: ['config.ts', 'main.ts', 'cli'], words: /\bprocess\.env\b/ },
  { to: ['cli'], words: /\bWDELTA_/ },
  { to: ['catalog'], words: /\bfrom 'better-sqlite3'/ },
  { to: ['http', 'app.ts', 'main.ts'], words: /\bfrom '(fastify|@fastify)\b/ },
]

/** Imports against the map: the offline commands go through the server's own process, and load it when they are asked for. */
const EXCEPTIONS = ['cli/commands/rebuild.ts -> main.ts', 'cli/commands/serve.ts -> main.ts']

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

function partOf(path: string): string {
  return path.split('/')[0]!
}

/** Where an import leads: a path in `src`, or null for a package or Node's own module. */
function target(source: Source, specifier: string): string | null {
  if (!specifier.startsWith('.')) return null
  return relative(SRC, join(SRC, dirname(source.path), specifier))
}

const sources = globSync('**/*.ts', {
  cwd: SRC,
  exclude: ['codec/kernels/assembly/**'],
}).map(readSource)

t.test('imports point one way', async t => {
  t.ok(sources.length > 0)
  const edges = sources.flatMap(source =>
    source.imports.flatMap(specifier => {
      const path = target(source, specifier)
      return path === null ? [] : [{ source, path }]
    }),
  )
  t.ok(edges.length > sources.length / 2)
  for (const { source, path } of edges) {
    const edge = `${source.path} -> ${path}`
    if (EXCEPTIONS.includes(edge)) continue
    const allowed = MAY_IMPORT[source.part]
    t.ok(allowed, `${source.part} has no place in the map`)
    const part = partOf(path)
    t.ok(part === source.part || allowed?.includes(part), edge)
  }
})

t.test('the codec is pure', async t => {
  for (const source of sources.filter(({ part }) => part === 'codec')) {
    const foreign = source.imports.filter(specifier => target(source, specifier) === null)
    t.strictSame(foreign, [], `${source.path} imports nothing from outside`)
    t.notMatch(source.text, /\b(Buffer|process)\b\./, `${source.path} knows no Node`)
  }
})

t.test('what is reserved to a part stays in it', async t => {
  for (const { to, words } of RESERVED) {
    for (const { path, part, text } of sources) {
      if (!to.includes(part)) t.notMatch(text, words, `${path}: ${words} belongs to ${to}`)
    }
  }
})

t.test('named exports with suffixes', async t => {
  for (const { path, text, imports } of sources) {
    t.notMatch(text, /^export default/m, path)
    for (const specifier of imports.filter(name => name.startsWith('.'))) {
      t.match(specifier, /\.(ts|wasm)$/, `${path} -> ${specifier}`)
    }
  }
})
