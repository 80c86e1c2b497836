import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Model } from '../../src/registry/registry.ts'
import {
  checkInvariants,
  KINDS,
  type Kind,
  prepareScene,
  publish,
  restart,
  startCopy,
} from './scene.ts'
import { attach, type Call, readCalls, requireStrace } from './strace.ts'

/** Calls that change what survives, and calls that lead up to them. */
const DURABLE = ['fsync', 'fdatasync', 'rename', 'unlink', 'mkdir', 'ftruncate']
const OTHERS = ['openat', 'write', 'writev', 'close']
/** Calls that SQLite writes its log with. */
const SQLITE = ['pwrite64', 'fsync']
const WAL = 'registry.sqlite-wal'
/** Crashes that the suite must have seen, and those of each way to publish that it tries. FULL tries every one. */
const MIN_CRASHES = 25
const POINTS = { durable: 5, others: 3, sqlite: 2 }
const { FULL } = process.env

/** The `nth` call of a name in a thread, of those on the log of SQLite or of all. */
interface Point {
  readonly name: string
  readonly nth: number
  readonly on: 'wal' | 'any'
}

requireStrace()
const folder = t.testdir({})
const scene = await prepareScene(folder)
let serial = 0
const newFolder = () => join(folder, `data-${serial++}`)

/** The calls of one upload that is let through. */
async function survey(kind: Kind): Promise<Call[]> {
  const server = await startCopy(scene, newFolder())
  const log = join(folder, `${kind}.strace`)
  const trace = `trace=${[...DURABLE, ...OTHERS, ...SQLITE].join(',')}`
  const tracer = await attach(server.pid, ['-y', '-s', '40', '-e', trace, '-o', log])
  await publish(server, scene.uploads[kind])
  await tracer.detach()
  await server.kill()
  return readCalls(log)
}

/** Every point that strace can name: it counts the calls of a name in each thread. */
function pointsOf(
  all: readonly Call[],
  names: readonly string[],
  on: Point['on'] = 'any',
): Point[] {
  const calls = on === 'any' ? all : all.filter(({ text }) => text.includes(WAL))
  return names.flatMap(name => {
    const counts = new Map<string, number>()
    for (const call of calls.filter(call => call.name === name)) {
      counts.set(call.thread, (counts.get(call.thread) ?? 0) + 1)
    }
    const most = Math.max(0, ...counts.values())
    return Array.from({ length: most }, (_, i) => ({ name, nth: i + 1, on }))
  })
}

/** So many of them, from the first to the last; with FULL all. */
function spread<T>(items: readonly T[], count: number): T[] {
  if (FULL || items.length <= count) return [...items]
  const step = (items.length - 1) / (count - 1)
  return Array.from({ length: count }, (_, i) => items[Math.round(i * step)]!)
}

/** Kills the server at a point of an upload; true if it came to it. */
async function crash(t: Test, kind: Kind, { name, nth, on }: Point): Promise<boolean> {
  const data = newFolder()
  const server = await startCopy(scene, data)
  const inject = `inject=${name}:signal=SIGKILL:when=${nth}`
  const path = on === 'any' ? [] : ['-P', join(data, WAL)]
  const options = ['-e', `trace=${name}`, '-e', inject, ...path, '-o', '/dev/null']
  const tracer = await attach(server.pid, options)
  const acknowledged: Model[] = [...scene.models]
  let killed = false
  try {
    acknowledged.push(await publish(server, scene.uploads[kind]))
  } catch (error) {
    // fetch says TypeError for a connection that ended; an answer of the server's would not be a crash.
    if (!(error instanceof TypeError)) throw error
    killed = true
  }
  await server.kill()
  await tracer.detach()
  const again = await restart(data)
  const { unacknowledged } = await checkInvariants(t, again, data, acknowledged)
  if (unacknowledged > 0)
    t.comment(`${kind}, ${name} ${nth} of ${on}: the answer was cut off after the commit`)
  const next = await publish(again, scene.uploads[kind])
  t.ok(next.id, 'the upload works when it is tried again')
  await again.kill()
  return killed
}

/** The first call that matches and begins after another ended. */
function after(
  calls: readonly Call[],
  before: Call,
  matches: (call: Call) => boolean,
): Call | null {
  return calls.find(call => call.began > before.ended && matches(call)) ?? null
}

function isSync(name: string): boolean {
  return name === 'fsync' || name === 'fdatasync'
}

/** Power cuts lose what was not synced, which SIGKILL cannot show: the order of the calls does. */
function checkOrder(t: Test, calls: readonly Call[]): void {
  const renames = calls.filter(({ name, text }) => name === 'rename' && text.includes('/blobs/'))
  const answer = calls.find(
    ({ name, text }) => /^writev?$/.test(name) && text.includes('201 Created'),
  )
  const commit = calls.findLast(
    ({ name, text, ended }) => isSync(name) && text.includes(WAL) && ended < (answer?.began ?? 0),
  )
  t.ok(
    renames.length > 0 && answer && commit,
    'blobs were renamed, the catalog committed, 201 answered',
  )
  if (!answer || !commit) return
  for (const rename of renames) {
    const [, from, to] = /rename\("([^"]+)", "([^"]+)"/.exec(rename.text)!
    const synced = calls.find(
      ({ name, text, ended }) => isSync(name) && text.includes(`<${from}>`) && ended < rename.began,
    )
    t.ok(synced, `${from} is synced before it is renamed`)
    const parent = to!.slice(0, to!.lastIndexOf('/'))
    const folder = after(calls, rename, ({ name, text }) => {
      return name === 'fsync' && text.includes(`<${parent}>`)
    })
    t.ok(folder && folder.ended < commit.began, `${parent} is synced before the catalog commits`)
  }
  t.ok(commit.ended < answer.began, 'the catalog is synced before 201 is sent')
}

let crashes = 0
for (const kind of KINDS) {
  const calls = await survey(kind)
  t.test(`${kind}: what is synced before what`, async t => checkOrder(t, calls))
  const points = [
    ...spread(pointsOf(calls, DURABLE), POINTS.durable),
    ...spread(pointsOf(calls, OTHERS), POINTS.others),
    ...spread(pointsOf(calls, SQLITE, 'wal'), POINTS.sqlite),
  ]
  for (const point of points) {
    const { name, nth, on } = point
    t.test(`${kind}: killed at ${name} ${nth} of ${on}`, async t => {
      if (await crash(t, kind, point)) crashes++
    })
  }
}

t.test('there were enough crashes', async t => {
  t.comment(`${crashes} crashes`)
  t.ok(crashes >= MIN_CRASHES, `${crashes} of at least ${MIN_CRASHES}`)
})
