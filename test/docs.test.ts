import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'

const ROOT = join(import.meta.dirname, '..')
const PACKAGE = JSON.parse(read('package.json'))
const PAGES = globSync(['*.md', 'docs/*.md', 'src/**/*.md'], { cwd: ROOT })
/** Pages that name folders of a user's data too, which are not in the repository. */
const OF_USERS = ['README.md', 'CHANGELOG.md']
/** Entries of the root and of `src`: what a path on a page begins with. */
const TOP = new Set(['.', 'src'].flatMap(folder => readdirSync(join(ROOT, folder))))
const FILE = /\.(ts|md|sql|json|yaml|sh|py|wasm|svg)$/

function read(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8')
}

/** A page without its blocks of code, which are for the shell. */
function proseOf(page: string): string {
  return read(page).replace(/^```[\s\S]*?^```$/gm, '')
}

/** The words of a line that stand in backticks and look like paths of the repository. */
function pathsIn(line: string, page: string): string[] {
  const words = Array.from(line.matchAll(/`([^`]+)`/g), match => match[1]!.split(/\s+/)).flat()
  return words.filter(word => {
    if (!/^\.?\w[\w.*-]*(\/[\w.*-]+)*\/?$/.test(word)) return false
    // A suffix.
    if (/^\.\w+(\.\w+)?$/.test(word)) return false
    const isFolder = word.endsWith('/') && !OF_USERS.includes(page)
    return isFolder || FILE.test(word) || (word.includes('/') && TOP.has(word.split('/')[0]!))
  })
}

t.test('pages name files and folders that are there', async t => {
  t.ok(PAGES.length > 6)
  for (const page of PAGES) {
    let checked = 0
    for (const line of proseOf(page).split('\n')) {
      // A path may leave out the folder of one before it.
      const folders = ['.', 'src', dirname(page)]
      for (const path of pathsIn(line, page)) {
        const found = folders.find(folder => globSync(path, { cwd: join(ROOT, folder) }).length > 0)
        t.not(found, undefined, `${page}: ${path}`)
        folders.push(join(found ?? '.', dirname(`${path}.`)))
        checked++
      }
    }
    t.comment(`${page}: ${checked} paths`)
  }
})

t.test('links lead somewhere', async t => {
  for (const page of PAGES) {
    for (const [, to] of proseOf(page).matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g)) {
      if (/^https?:/.test(to!)) continue
      t.ok(existsSync(join(ROOT, dirname(page), to!)), `${page} -> ${to}`)
    }
  }
})

t.test('pages name scripts of the package', async t => {
  for (const page of PAGES) {
    for (const [, script] of read(page).matchAll(/\bnpm run (?:-s )?([\w:]+)/g)) {
      t.ok(script! in PACKAGE.scripts, `${page}: npm run ${script}`)
    }
  }
})

t.test('comments name pages that are there', async t => {
  // xxHash's.
  const foreign = ['doc/xxhash_spec.md']
  for (const path of globSync('{src,test,bench,scripts}/**/*.ts', { cwd: ROOT })) {
    for (const [page] of read(path).matchAll(/\b(?:[\w-]+\/)*[A-Z\w-]+\.md\b/g)) {
      if (foreign.includes(page)) continue
      const folders = ['.', 'docs', 'src', 'src/codec']
      t.ok(
        folders.some(folder => existsSync(join(ROOT, folder, page))),
        `${path}: ${page}`,
      )
    }
  }
})

t.test('every suite is in the table, with the time that it has', async t => {
  const table = read('docs/suites.md')
  const suites = read('.ci/run').matchAll(/^suite '[^']+' (\d+) .*?\b(npm (?:run )?test[\w:]*)/gm)
  const rows = Array.from(table.matchAll(/^\| `\.(\w+)\.?t?s?` .*`(npm [^`]+)` \|.*\| (\d+) \|$/gm))
  const times = Object.fromEntries(rows.map(([, , command, minutes]) => [command, Number(minutes)]))
  for (const [, seconds, command] of suites)
    t.equal(times[command!], Number(seconds) / 60, command!)
  const found = globSync('test/**/*.ts', { cwd: ROOT }).map(path => /\.(\w+)\.ts$/.exec(path)?.[1])
  const suffixes = new Set(found.filter(suffix => suffix !== undefined))
  t.strictSame(new Set(rows.map(([, suffix]) => suffix)), suffixes)
})

t.test('the version is stated once, and the change log has it', async t => {
  const { version } = PACKAGE
  t.match(version, /^\d+\.\d+\.\d+$/)
  const lock = JSON.parse(read('package-lock.json'))
  t.strictSame([lock.version, lock.packages[''].version], [version, version])
  t.equal(/^## (.*)$/m.exec(read('CHANGELOG.md'))?.[1], version)
})
