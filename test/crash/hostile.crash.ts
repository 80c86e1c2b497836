import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import t, { type Test } from 'tap'
import { PROBLEMS } from '../../src/errors.ts'
import type { Model } from '../../src/registry/registry.ts'
import { peakMemory, type ServerProcess, startServer } from '../support/servers/server-process.ts'
import type { HostileForm } from './hostile/draws.ts'
import { HostileFiles } from './hostile/hostile-files.ts'
import { knownTensors, safetensors } from './hostile/known-model.ts'

const { FULL, SEED = '11' } = process.env
/** Forms that are sent, so many at once. */
const FORMS = FULL ? 5000 : 104
const AT_ONCE = 4
/** Tensors that one of them describes. */
const MAX_TENSORS = FULL ? 2 ** 18 : 2 ** 15
const MAX_HEALTH_MS = 250
/** Of the looks at `/healthz`, so many are to be in time: all of them where the machine has nothing else to do. */
const IN_TIME = FULL ? 1 : 0.99
const MAX_RSS_BYTES = 700e6
/** What an honest upload costs the processors at most, on a slow machine: in all, for each byte that comes or is made, for each tensor. */
const MAX_CPU = { ms: 500, msPerByte: 60e-6, msPerTensor: 0.1 }

/** Watches `/healthz` from a thread of its own: this one makes files, and would be late itself. */
function watchHealth(url: string): () => Promise<number[]> {
  const worker = new Worker(new URL('health-probe.ts', import.meta.url), { workerData: { url } })
  const told = once(worker, 'message')
  told.catch(() => {})
  return async () => {
    worker.postMessage('stop')
    const [times] = await told
    return times.sort((a: number, b: number) => a - b)
  }
}

const CLOCK_TICKS_PER_SECOND = 100

/** Milliseconds that all threads of a process have run. Source: proc(5), `utime` and `stime`. */
function cpuMs(pid: number): number {
  const [, fields] = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')
  const [user, system] = fields!.split(' ').slice(11, 13)
  return ((Number(user) + Number(system)) * 1000) / CLOCK_TICKS_PER_SECOND
}

function mostCpuMs({ files, logicalBytes, tensors }: HostileForm): number {
  const bytes = files.reduce((sum, file) => sum + file.bytes.length, 0)
  const { ms, msPerByte, msPerTensor } = MAX_CPU
  return ms + (bytes + logicalBytes) * msPerByte + tensors * msPerTensor
}

async function send({ url }: ServerProcess, form: HostileForm, name: string): Promise<Response> {
  const body = new FormData()
  for (const [field, value] of Object.entries({ name, ...form.fields })) body.append(field, value)
  for (const { field, name: path, bytes } of form.files) {
    body.append(field, new Blob([bytes as Uint8Array<ArrayBuffer>]), path)
  }
  return fetch(url + form.path, { method: 'POST', body })
}

/** A model comes back as it says it is; anything else is a problem with a code that is the client's. */
async function judge(
  t: Test,
  answer: Response,
  form: HostileForm,
  i: number,
): Promise<Model | null> {
  const what = `form ${i} of seed ${SEED} (${form.kind})`
  const body = (await answer.json()) as Model & { code: string; detail: string }
  if (answer.status === 201) return body
  const { code, detail } = body
  const isTyped = answer.headers.get('content-type')?.startsWith('application/problem+json')
  const status = PROBLEMS[code as keyof typeof PROBLEMS]?.status
  const isFine = isTyped && status === answer.status && status >= 400 && status < 500
  if (!isFine) t.fail(`${what}: ${answer.status} ${code} ${detail}`)
  return null
}

async function readBack(
  t: Test,
  { url }: ServerProcess,
  model: Model,
  kind: string,
): Promise<void> {
  const answer = await fetch(`${url}/models/${model.id}/reconstruct`)
  const hash = createHash('sha256')
  let size = 0
  for await (const chunk of answer.body!) {
    hash.update(chunk)
    size += chunk.length
  }
  if (size !== model.size || hash.digest('hex') !== model.sha256) t.fail(`${kind}: another model`)
  const gone = await fetch(`${url}/models/${model.id}`, { method: 'DELETE' })
  if (gone.status !== 204) t.fail(`${kind}: it cannot be deleted: ${gone.status}`)
}

/** What was seen of the forms of one kind. */
interface Tally {
  sent: number
  accepted: number
  readonly codes: Set<string>
}

t.test(`${FORMS} hostile deltas and files, ${AT_ONCE} at once`, async t => {
  const server = await startServer(t.testdir({}), {
    LOG_LEVEL: 'warn',
  })
  t.teardown(() => server.kill())
  const tensors = knownTensors()
  const published = await send(
    server,
    {
      kind: 'base',
      path: '/models',
      fields: {},
      files: [{ field: 'file', name: 'model.safetensors', bytes: safetensors(tensors) }],
      logicalBytes: 0,
      tensors: 6,
    },
    'acme/base',
  )
  const { id, hashes } = (await published.json()) as Model
  const files = new HostileFiles(
    Number(SEED),
    { id, parentHash: hashes.stored, tensors },
    MAX_TENSORS,
  )
  const stopWatch = watchHealth(server.url)
  const tallies = new Map<string, Tally>()
  let worst = { part: 0, ms: 0, kinds: '' }

  for (let i = 0; i < FORMS; i += AT_ONCE) {
    const forms = Array.from({ length: AT_ONCE }, (_, k) => files.make(i + k))
    const before = cpuMs(server.pid)
    const answers = await Promise.all(
      forms.map(async (form, k) => judge(t, await send(server, form, `acme/h${k}`), form, i + k)),
    )
    const ms = cpuMs(server.pid) - before
    const part = ms / forms.reduce((sum, form) => sum + mostCpuMs(form), 0)
    const kinds = forms.map(({ kind }) => kind).join(' | ')
    if (part > worst.part) worst = { part, ms, kinds: `${i}: ${kinds}` }
    for (const [k, model] of answers.entries()) {
      const { kind } = forms[k]!
      const tally = tallies.get(kind) ?? { sent: 0, accepted: 0, codes: new Set() }
      tallies.set(kind, tally)
      tally.sent++
      if (!model) continue
      tally.accepted++
      await readBack(t, server, model, kind)
    }
  }

  const delays = await stopWatch()
  const delay = delays.at(-1)!
  const status = readFileSync(`/proc/${server.pid}/status`, 'latin1')
  const rss = peakMemory(status)
  for (const [kind, { sent, accepted }] of tallies)
    t.comment(`${kind}: ${accepted} of ${sent} accepted`)
  t.comment(`/healthz ${Math.round(delay)} ms at the worst, ${Math.round(rss / 1e6)} MB resident`)
  t.comment(
    `processors: ${Math.round(worst.ms)} ms, ${worst.part.toFixed(2)} of what is allowed, for ${worst.kinds}`,
  )
  for (const kind of ['v1, sound', 'v2, sound', 'files, sound']) {
    const { sent, accepted } = tallies.get(kind)!
    t.ok(
      kind === 'files, sound' ? accepted > 0 : accepted === sent,
      `${kind}: ${accepted} of ${sent}`,
    )
  }
  const late = delays.filter(ms => ms > MAX_HEALTH_MS).length
  t.ok(
    late <= delays.length * (1 - IN_TIME),
    `/healthz within ${MAX_HEALTH_MS} ms, ${late} of ${delays.length} times later`,
  )
  t.ok(rss <= MAX_RSS_BYTES, 'memory')
  t.ok(worst.part <= 1, 'processors')
  t.equal((await fetch(`${server.url}/readyz`)).status, 200)
  t.strictSame(
    server.log.filter(line => /"level":(50|60)/.test(line)),
    [],
    'nothing is logged as an error',
  )
})
