import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { ServerProcess } from '../support/servers/server-process.ts'
import {
  checkInvariants,
  KINDS,
  type Kind,
  listAll,
  prepareScene,
  publish,
  restart,
  send,
  startCopy,
  sweep,
} from './scene.ts'
import { attach, requireStrace } from './strace.ts'

const { FULL } = process.env
/** Of an upload: enough for the server to have begun to store it. */
const BEGUN_BYTES = 64 * 1024

/** A call to the system that fails. */
interface Fault {
  readonly call: string
  readonly error: 'EIO' | 'ENOSPC' | 'EMFILE'
  /** What it works on: the file that the upload is written to, the log of SQLite, or anything. */
  readonly on: 'staged' | 'wal' | 'any'
  /** The how many-th such call of a thread it is, as strace has it: `2`, or `2+` for that and all that follow. */
  readonly when: string
}

requireStrace()
const folder = t.testdir({})
const scene = await prepareScene(folder)
let serial = 0

function* faults(kind: Kind): Generator<Fault> {
  for (const error of ['EIO', 'ENOSPC'] as const) {
    for (const call of ['write', 'fdatasync', 'rename']) {
      yield { call, error, on: 'staged', when: '1' }
    }
    for (const when of some('2', '1', '3', '4')) yield { call: 'fsync', error, on: 'any', when }
    // Rows are inserted in one way only.
    if (!FULL && kind !== 'base') continue
    for (const when of some('2', '1', '5', '1+')) yield { call: 'pwrite64', error, on: 'wal', when }
    // The first is of the log's own head, the second of a transaction in it.
    for (const when of [...some('2', '1'), '2+']) yield { call: 'fsync', error, on: 'wal', when }
  }
  // Only where a descriptor is made.
  for (const when of some('1', '2', '3', '4', '5', '1+')) {
    yield { call: 'openat', error: 'EMFILE', on: 'any', when }
  }
}

/** The first, with FULL all of them. */
function some(...all: string[]): string[] {
  return FULL ? all : all.slice(0, 1)
}

function optionsOf(data: string, { call, error, on, when }: Fault): string[] {
  const staged = () => readdirSync(join(data, 'staged')).map(name => join(data, 'staged', name))
  const paths = { staged, wal: () => [join(data, 'registry.sqlite-wal')], any: () => [] }[on]()
  return [
    ...['-e', `trace=${call}`, '-e', `inject=${call}:error=${error}:when=${when}`],
    ...paths.flatMap(path => ['-P', path]),
    ...['-o', '/dev/null'],
  ]
}

/** The answer to an upload in which a call fails. */
async function uploadWith(
  server: ServerProcess,
  data: string,
  kind: Kind,
  fault: Fault,
): Promise<Response> {
  const begin = () => attach(server.pid, optionsOf(data, fault))
  const upload = scene.uploads[kind]
  if (fault.on !== 'staged') {
    const tracer = await begin()
    const response = await send(server, upload)
    await tracer.detach()
    return response
  }
  // The name of the file is random: it must be there before strace can be told of it.
  let tracer: Awaited<ReturnType<typeof attach>> | undefined
  const until = async () => {
    while (readdirSync(join(data, 'staged')).length === 0) await sleep(5)
    tracer = await begin()
  }
  const response = await send(server, upload, { after: BEGUN_BYTES, until })
  await tracer!.detach()
  return response
}

/** SQLite tells a full disk from others when it writes, not when it syncs. */
function statusOf({ error, call, on }: Fault): 500 | 507 {
  return error === 'ENOSPC' && !(on === 'wal' && call === 'fsync') ? 507 : 500
}

async function fail(t: Test, kind: Kind, fault: Fault, then: 'goes on' | 'is killed') {
  const data = join(folder, `data-${serial++}`)
  const server = await startCopy(scene, data)
  const response = await uploadWith(server, data, kind, fault)
  const status = statusOf(fault)
  t.equal(response.status, status)
  t.equal(response.headers.get('content-type'), 'application/problem+json')
  t.match(await response.json(), { status, type: /^urn:wdelta:problem:[a-z-]+$/ })
  const acknowledged = [...scene.models]
  const endless = fault.when.endsWith('+')
  if (then === 'goes on') {
    // Where nothing can be written any more, nothing can be tidied up.
    if (endless) await sweep(server, false)
    t.strictSame(await listAll(server), acknowledged.toReversed(), 'there is no row')
    t.strictSame(readdirSync(join(data, 'staged')), [], 'nothing is left staged')
    t.strictSame((await sweep(server, true)).deleted, [], 'nothing is left to sweep')
    acknowledged.push(await publish(server, scene.uploads[kind]))
  }
  await server.kill()
  const again = await restart(data)
  const { unacknowledged } = await checkInvariants(t, again, data, acknowledged)
  if (!endless) t.equal(unacknowledged, 0, 'what was refused does not come back')
  if (then === 'is killed') t.ok((await publish(again, scene.uploads[kind])).id)
  await again.kill()
}

for (const kind of KINDS) {
  for (const fault of faults(kind)) {
    const { call, error, on, when } = fault
    const what = `${kind}: ${call} ${when} of ${on} fails with ${error}`
    t.test(`${what}, the server goes on`, t => fail(t, kind, fault, 'goes on'))
    if (on !== 'wal') continue
    t.test(`${what}, the server is killed`, t => fail(t, kind, fault, 'is killed'))
  }
}
