import type { ErrorCode } from '../../../src/errors.ts'
import { newBlobKey } from '../../../src/storage/blob-key.ts'
import type { BlobStore } from '../../../src/storage/blob-store.ts'
import { type Answer, type Operation, refusal } from '../../support/servers/fake-bucket.ts'
import type { Fault } from '../../support/servers/fake-s3.ts'

export function pattern(size: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(size)
  for (let i = 0; i < size; i++) bytes[i] = i * 31 + seed * 7 + (i >> 8)
  return bytes
}

export async function* once(content: Uint8Array): AsyncGenerator<Uint8Array> {
  yield content
}

export async function put(store: BlobStore, content: Uint8Array, key = newBlobKey()) {
  await (await store.stage(key, once(content))).commit()
  return key
}

/** Is put at once … */
export const SMALL = pattern(50_000, 1)
/** … and this is a multipart upload. */
export const LARGE = pattern(1_100_000, 2)
export const STORED = pattern(200_000, 3)

interface Scene {
  readonly store: BlobStore
  /** Where the bytes `STORED` are: all that the store has. */
  readonly old: string
  /** Where something new may go. */
  readonly key: string
}

/** What is asked of the store while one kind of request goes wrong. */
interface Column {
  readonly on: Operation
  /** Resolves with whether it was done right. */
  readonly run: (scene: Scene) => Promise<boolean>
  /** What it stores under the new key. */
  readonly stores?: Uint8Array
}

const putting = (on: Operation, content: Uint8Array): Column => ({
  on,
  run: async ({ store, key }) => (await put(store, content, key)) === key,
  stores: content,
})

const COLUMNS = {
  put: putting('PutObject', SMALL),
  'look at what was put': putting('HeadObject', SMALL),
  create: putting('CreateMultipartUpload', LARGE),
  part: putting('UploadPart', LARGE),
  complete: putting('CompleteMultipartUpload', LARGE),
  abort: {
    on: 'AbortMultipartUpload',
    run: async ({ store, key }) => {
      await (await store.stage(key, once(LARGE))).abort()
      return true
    },
  },
  get: {
    on: 'GetObject',
    run: async ({ store, old }) => {
      const read = await store.read(old, { start: 1000, end: STORED.length - 1000 })
      return Buffer.compare(read, STORED.subarray(1000, -1000)) === 0
    },
  },
  head: {
    on: 'HeadObject',
    run: async ({ store, old }) => (await store.size(old)) === STORED.length,
  },
  delete: {
    on: 'DeleteObject',
    run: async ({ store, old }) => {
      await store.delete([old])
      return (await Array.fromAsync(store.list('blobs/'))).length === 0
    },
  },
  list: {
    on: 'ListObjectsV2',
    run: async ({ store, old }) => {
      const found = await Array.fromAsync(store.list('blobs/'))
      return found.length === 1 && found[0]!.key === old && found[0]!.size === STORED.length
    },
  },
  sweep: {
    on: 'ListMultipartUploads',
    run: async ({ store }) => (await store.sweepStaged(new Date(), false)).length === 0,
  },
} as const satisfies Record<string, Column>

type ColumnName = keyof typeof COLUMNS
const ALL = Object.keys(COLUMNS) as ColumnName[]
/** Those whose requests have a body. */
const SENDING = ['put', 'part', 'complete'] as const
/** Those whose answers have one … */
const RECEIVING = ['create', 'complete', 'get', 'list', 'sweep'] as const
/** … and where it is XML. */
const XML = ['create', 'complete', 'list', 'sweep'] as const
/** All but the answers to a HEAD, which have no body to say anything in. */
const SPEAKING = ALL.filter(name => COLUMNS[name].on !== 'HeadObject')

type Outcomes = Readonly<Partial<Record<ColumnName, 'ok' | ErrorCode | undefined>>>

/** What goes wrong: with requests of one kind, or with the server as a whole. */
type Wrong =
  | { readonly fault: Fault; readonly times?: number }
  | { readonly clockAheadMs: number }
  | 'no listener'

interface Script {
  readonly name: string
  readonly wrong: Wrong
  /** What comes of it; what is not named has no such fault. */
  readonly outcomes: Outcomes
}

/** One outcome for several; an upload that cannot be dropped is no failure, but the sweep's. */
function each(columns: readonly ColumnName[], outcome: 'ok' | ErrorCode): Outcomes {
  return Object.fromEntries(columns.map(name => [name, name === 'abort' ? 'ok' : outcome]))
}

const LATER = 'storage-unavailable'
const FAILED = 'storage-failed'
const ALL_OK = each(ALL, 'ok')
const ALL_LATER = each(ALL, LATER)
const ALL_FAILED = each(ALL, FAILED)
const SENT = each(SENDING, 'ok')
const SENT_LATER = each(SENDING, LATER)
const SPEAKING_OK = each(SPEAKING, 'ok')
const SPEAKING_LATER = each(SPEAKING, LATER)
const RECEIVED = each(RECEIVING, 'ok')
const FULL = each([...SENDING, 'create'], 'storage-full')
/** What was made of a body is looked at, whatever was heard of it. */
const UNHEARD: Outcomes = { ...ALL_LATER, put: 'ok', complete: 'ok' }
const XML_LATER: Outcomes = { ...each(XML, LATER), complete: 'ok' }
const HOUR_MS = 3_600_000

const always = (name: string, fault: Fault, outcomes: Outcomes): Script => ({
  name,
  wrong: { fault },
  outcomes,
})
const times = (count: number, name: string, fault: Fault, outcomes: Outcomes): Script => ({
  name: `${name}, ${count}×`,
  wrong: { fault, times: count },
  outcomes,
})
const both = (name: string, fault: Fault, first: Outcomes, outcomes: Outcomes): Script[] => [
  times(1, name, fault, first),
  always(name, fault, outcomes),
]

/** The server answers with an error. */
function error(status: number, code: string, headers: Record<string, string> = {}): Fault {
  return { kind: 'refuse', answer: refusal(status, code, headers) }
}

/** Something between the store and the server answers in its place. */
function page(status: number, text: string): Fault {
  const body = Buffer.from(text)
  const headers = { 'content-type': 'text/html', 'content-length': String(body.length) }
  return { kind: 'refuse', answer: { status, headers, body } }
}

/** Changes what a header says; null takes it away. */
function header(name: string, change: (value: string) => string | null): Fault {
  const changed = ({ headers: { [name]: value = '', ...others }, ...answer }: Answer): Answer => {
    const now = change(value)
    return { ...answer, headers: now === null ? others : { ...others, [name]: now } }
  }
  return { kind: 'answer', change: changed }
}

function xml(change: (text: string) => string): Fault {
  const changed = ({ status, headers, body }: Answer): Answer => {
    const now = Buffer.from(change(body.toString()))
    return { status, headers: { ...headers, 'content-length': String(now.length) }, body: now }
  }
  return { kind: 'answer', change: changed }
}

const cut = (after: number, end: 'reset' | 'stall' | 'close'): Fault => ({
  kind: 'cut',
  after,
  end,
})
const taken = (change: (body: Buffer) => Buffer): Fault => ({ kind: 'take', change })
const longer = (count: number) => header('content-length', value => String(Number(value) + count))

/** Says something else than that the list is whole. */
const listed = (instead: string) =>
  xml(text => text.replace('<IsTruncated>false</IsTruncated>', instead))
const GOES_ON = '<IsTruncated>true</IsTruncated>'
const ITSELF = '<NextContinuationToken>a</NextContinuationToken><NextKeyMarker>a</NextKeyMarker>'

const half = (body: Buffer) => body.subarray(0, body.length >> 1)
const framed = (body: Buffer) => Buffer.concat([Buffer.from('c350\r\n'), body])

const NO_LENGTH = header('content-length', () => null)
const NO_ETAG = header('etag', () => null)
const WRONG_ETAG = header('etag', () => '"0"')
const NO_RANGE = header('content-range', () => null)
const WRONG_RANGE = header('content-range', () => 'bytes 0-99/200000')
const CUT_XML = xml(text => text.slice(0, -30))
const EARLY: Fault = { kind: 'refuse', answer: refusal(503, 'SlowDown'), isEarly: true }
const REGION = { 'x-amz-bucket-region': 'eu-west-1' }
const PAGE = '<html><body><h1>Welcome</h1></body></html>'
const NO_XML = '<html><body><h1>Bad<br>gateway</h1><hr></body></html>'

/** What a success is worth that has nothing of what was asked for: what was put is looked at, and the rest is seen to lack something. */
const HOLLOW: Outcomes = {
  put: FAILED,
  'look at what was put': FAILED,
  create: LATER,
  part: LATER,
  get: LATER,
  list: LATER,
}

const SCRIPTS: readonly Script[] = [
  ...both('500', error(500, 'InternalError'), ALL_OK, ALL_LATER),
  times(3, '503', error(503, 'ServiceUnavailable'), ALL_OK),
  ...both('503 SlowDown', error(503, 'SlowDown'), ALL_OK, ALL_LATER),
  ...both('429', error(429, 'TooManyRequests'), SENT, SENT_LATER),
  ...both('400 RequestTimeout', error(400, 'RequestTimeout'), SENT, SENT_LATER),
  ...both('503 before the body was read', EARLY, SENT, SENT_LATER),
  ...both('reset before the body', { kind: 'reset', at: 'head' }, ALL_OK, ALL_LATER),
  ...both('reset in the body', { kind: 'reset', at: 'body' }, SENT, SENT_LATER),
  ...both('reset once it was done', { kind: 'reset', at: 'answer' }, ALL_OK, UNHEARD),
  ...both('a stall before the body', { kind: 'stall', at: 'head' }, ALL_OK, ALL_LATER),
  ...both('a stall in the body', { kind: 'stall', at: 'body' }, SENT, SENT_LATER),
  ...both('a stall once it was done', { kind: 'stall', at: 'answer' }, ALL_OK, UNHEARD),
  ...both('an answer cut before its body', cut(0, 'reset'), RECEIVED, { ...XML_LATER, get: LATER }),
  ...both('an answer cut in its body', cut(50, 'reset'), RECEIVED, XML_LATER),
  ...both('an answer that ends early', cut(50, 'close'), RECEIVED, XML_LATER),
  ...both('an answer that stalls', cut(50, 'stall'), RECEIVED, { ...XML_LATER, get: LATER }),
  always('answers that come a piece further each', cut(20_000, 'reset'), { get: 'ok' }),
  always('a byte at a time', { kind: 'trickle' }, { get: LATER, list: LATER }),
  always('another protocol', { kind: 'noise' }, ALL_LATER),
  { name: 'nobody listens', wrong: 'no listener', outcomes: { ...ALL_LATER, abort: undefined } },

  ...both('200 with an error in it', error(200, 'InternalError'), SPEAKING_OK, SPEAKING_LATER),
  always('200 with nothing', page(200, ''), { ...HOLLOW, complete: LATER, sweep: 'ok' }),
  always('200 with a page', page(200, PAGE), { ...HOLLOW, complete: FAILED, sweep: 'ok' }),
  always('200 with no XML', page(200, NO_XML), { ...HOLLOW, complete: LATER, sweep: LATER }),
  times(1, '200 with a page', page(200, PAGE), { get: 'ok' }),
  ...both('502 with a page', page(502, NO_XML), ALL_OK, ALL_LATER),
  // Of a HEAD alone: a GET finds it.
  always('404 with a page', page(404, PAGE), { ...ALL_FAILED, head: LATER }),
  always('404 NoSuchBucket', error(404, 'NoSuchBucket'), { ...ALL_FAILED, head: LATER }),
  always('404 NoSuchKey', error(404, 'NoSuchKey'), { get: 'blob-missing' }),
  always('404 NoSuchUpload', error(404, 'NoSuchUpload'), { part: FAILED, complete: FAILED }),
  always('403 AccessDenied', error(403, 'AccessDenied'), ALL_FAILED),
  always('403 RequestTimeTooSkewed', error(403, 'RequestTimeTooSkewed'), ALL_FAILED),
  { name: 'a clock that is ahead', wrong: { clockAheadMs: HOUR_MS }, outcomes: ALL_OK },
  { name: 'a clock that is behind', wrong: { clockAheadMs: -HOUR_MS }, outcomes: ALL_OK },
  always('301 to another region', error(301, 'PermanentRedirect', REGION), ALL_FAILED),
  always('307', error(307, 'TemporaryRedirect', { location: 'http://127.0.0.1:9/' }), ALL_FAILED),
  always('400 for the region', error(400, 'AuthorizationHeaderMalformed', REGION), ALL_FAILED),
  always('507', error(507, 'InsufficientStorage'), FULL),
  always('409 that says there is no room', error(409, 'XMinioStorageFull'), FULL),

  // All of a body may be there, and its end is not.
  ...both('a length that is too large', longer(10), RECEIVED, {
    ...XML_LATER,
    get: 'ok',
    'look at what was put': FAILED,
  }),
  times(1, 'a length that is too small', longer(-10), { get: 'ok' }),
  always('a length that is too small', longer(-10), {
    ...XML_LATER,
    get: LATER,
    'look at what was put': FAILED,
  }),
  always('no length', NO_LENGTH, { ...RECEIVED, head: LATER, 'look at what was put': LATER }),
  always('no ETag', NO_ETAG, { put: 'ok', part: LATER, get: 'ok' }),
  always('a wrong ETag', WRONG_ETAG, { put: 'ok', part: FAILED, get: 'ok' }),
  ...both('no Content-Range', NO_RANGE, { get: 'ok' }, { get: LATER }),
  ...both('a wrong Content-Range', WRONG_RANGE, { get: 'ok' }, { get: LATER }),
  always('XML that is cut', CUT_XML, XML_LATER),
  always('a list that goes on nowhere', listed(GOES_ON), { list: LATER, sweep: 'ok' }),
  always('a list that goes on with itself', listed(GOES_ON + ITSELF), { list: LATER, sweep: 'ok' }),
  always('a list that may not be whole', listed(''), { list: LATER, sweep: 'ok' }),

  always('half of it is taken', taken(half), { put: FAILED, part: FAILED }),
  always('its framing is taken too', taken(framed), { put: FAILED, part: FAILED }),
]

/** One thing that goes wrong while one thing is asked of the store. */
export interface Cell {
  readonly name: string
  readonly column: Column
  readonly wrong: Wrong
  readonly outcome: 'ok' | ErrorCode
}

/** Every script with everything that it makes sense for. */
export const CELLS: readonly Cell[] = SCRIPTS.flatMap(({ name, wrong, outcomes }) =>
  ALL.flatMap(column => {
    const outcome = outcomes[column]
    if (outcome === undefined) return []
    return [{ name: `${column}: ${name}`, column: COLUMNS[column], wrong, outcome }]
  }),
)

/** True if an upload may stay behind, for the sweep: it could not be dropped, or nobody has heard that it was begun. */
export function mayLeaveUpload({ column: { on }, wrong }: Cell): boolean {
  if (on === 'AbortMultipartUpload') return true
  if (on !== 'CreateMultipartUpload' || wrong === 'no listener' || !('fault' in wrong)) return false
  const { fault } = wrong
  return fault.kind === 'cut' || fault.kind === 'answer' || ('at' in fault && fault.at === 'answer')
}
