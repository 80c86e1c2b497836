import t, { type Test } from 'tap'
import { newBlobKey } from '../../../src/storage/blob-key.ts'
import { openS3BlobStore } from '../../../src/storage/s3/blob-store.ts'
import type { S3Options } from '../../../src/storage/s3/client.ts'
import { type Answer, type Operation, refusal } from '../../support/servers/fake-bucket.ts'
import { FakeS3, type Fault } from '../../support/servers/fake-s3.ts'
import { blobStoreContract } from '../blob-store-contract.ts'
import { LARGE, once, pattern, put, SMALL } from './fault-scripts.ts'

const HOUR_MS = 3_600_000
const later = () => new Date(Date.now() + HOUR_MS)

/** A server, and stores in a folder of its bucket, gone with the test. */
async function start(t: Test, pageSize?: number) {
  const fake = await FakeS3.start(pageSize)
  t.teardown(() => fake[Symbol.asyncDispose]())
  const open = async (options: Partial<S3Options> = {}) => {
    const store = await openS3BlobStore(fake.options({ prefix: 'some/where/', ...options }))
    t.teardown(() => store.close())
    return store
  }
  return { fake, open }
}

blobStoreContract(t, async t => {
  // Short pages, so that there are several of everything that is listed.
  const { open } = await start(t, 2)
  return open
})

t.test('a small blob is one request and a look at it, and nothing before its commit', async t => {
  const { fake, open } = await start(t)
  const store = await open()
  const counts = () => [fake.requests('PutObject'), fake.requests('HeadObject')]
  const [puts, heads] = counts()
  const staged = await store.stage(newBlobKey(), once(SMALL))
  t.strictSame(counts(), [puts, heads])
  await staged.commit()
  t.strictSame(counts(), [puts! + 1, heads! + 1])
})

t.test('a large blob comes in equal parts', async t => {
  const { fake, open } = await start(t, 2)
  const store = await open()
  const content = pattern(70_000_000, 1)
  const key = newBlobKey()
  const staged = await store.stage(key, once(content))
  const sizes = [...fake.bucket.uploads.values()].map(({ parts }) =>
    [...parts].sort(([a], [b]) => a - b).map(([, { bytes }]) => bytes.length),
  )
  const full = 16 * 1024 * 1024
  t.strictSame(sizes, [[full, full, full, full, content.length - 4 * full]])
  const other = await open()
  const [found] = await other.sweepStaged(later(), true)
  t.match(found, { key, size: content.length }, 'on three pages')
  await staged.commit()
  t.equal(Buffer.compare(fake.bucket.objects.get(`some/where/${key}`)!.bytes, content), 0)
})

t.test('what others have in the bucket is left alone', async t => {
  const { fake, open } = await start(t)
  const store = await open()
  const key = await put(store, SMALL)
  const others = ['note.txt', `some/where/${key}.txt`, `some/wherever/${key}`, key]
  for (const name of others) fake.bucket.put(name, SMALL)
  const neighbour = await open({ prefix: 'some/' })
  const elsewhere = await open({ prefix: '' })
  await neighbour.stage(newBlobKey(), once(LARGE))
  await elsewhere.stage(newBlobKey(), once(LARGE))
  t.strictSame(await Array.fromAsync(store.list(''), blob => blob.key), [key])
  t.strictSame(await (await open()).sweepStaged(later(), false), [])
  t.equal(fake.bucket.uploads.size, 2)
  await store.delete([key])
  t.strictSame([...fake.bucket.objects.keys()].sort(), others.sort())
})

t.test('a server that cannot list uploads is none to sweep', async t => {
  const { fake, open } = await start(t)
  const answer = refusal(501, 'NotImplemented')
  fake.script({ on: 'ListMultipartUploads', fault: { kind: 'refuse', answer } })
  const store = await open()
  const staged = await store.stage(newBlobKey(), once(LARGE))
  t.strictSame(await (await open()).sweepStaged(later(), false), [])
  await staged.commit()
})

t.test('what a server is found to do', async t => {
  const ignored = (answer: Answer): Answer =>
    answer.status === 412
      ? { status: 200, headers: { etag: '"0"' }, body: Buffer.alloc(0) }
      : answer
  const refused = (answer: Answer): Answer =>
    answer.status === 412 ? refusal(501, 'NotImplemented') : answer
  const answer = refusal(501, 'NotImplemented')
  const cases: [Operation, Fault | null, object][] = [
    ['PutObject', null, { conditionalWrites: 'enforced', listUploads: true }],
    ['PutObject', { kind: 'answer', change: ignored }, { conditionalWrites: 'ignored' }],
    ['PutObject', { kind: 'answer', change: refused }, { conditionalWrites: 'refused' }],
    ['ListMultipartUploads', { kind: 'refuse', answer }, { listUploads: false }],
  ]
  for (const [on, fault, expected] of cases) {
    const { fake } = await start(t)
    if (fault) fake.script({ on, fault })
    let found = {}
    const store = await openS3BlobStore(fake.options(), told => {
      found = told
    })
    await store.close()
    t.match(found, expected)
    t.equal(fake.bucket.objects.size + fake.bucket.uploads.size, 0, 'nothing is left')
  }
})

t.test('a bucket that cannot do what is needed is not opened', async t => {
  const whole: Fault = {
    kind: 'refuse',
    answer: { status: 200, headers: { 'content-length': '5' }, body: Buffer.from('probe') },
  }
  const everything = (answer: Answer): Answer => {
    const [contents] = /<Contents>.*<\/Contents>/s.exec(answer.body.toString())!
    const body = Buffer.from(answer.body.toString().replace(contents, contents + contents))
    return { ...answer, body, headers: { ...answer.headers, 'content-length': `${body.length}` } }
  }
  const refuse = (status: number, code: string): Fault => {
    return { kind: 'refuse', answer: refusal(status, code) }
  }
  const later = 'storage-unavailable'
  const cases: [Operation, Fault, code: string][] = [
    ['HeadBucket', refuse(403, 'AccessDenied'), 'storage-failed'],
    ['HeadBucket', refuse(301, 'PermanentRedirect'), 'storage-failed'],
    ['HeadBucket', refuse(500, 'InternalError'), later],
    ['HeadBucket', { kind: 'reset', at: 'head' }, later],
    ['PutObject', refuse(403, 'AccessDenied'), 'storage-failed'],
    ['PutObject', refuse(507, 'InsufficientStorage'), 'storage-full'],
    ['GetObject', whole, 'storage-failed'],
    ['GetObject', { kind: 'cut', after: 1, end: 'stall' }, later],
    ['ListObjectsV2', { kind: 'answer', change: everything }, 'storage-failed'],
    ['ListObjectsV2', refuse(403, 'AccessDenied'), 'storage-failed'],
    ['CreateMultipartUpload', refuse(501, 'NotImplemented'), 'storage-failed'],
    ['ListMultipartUploads', refuse(403, 'AccessDenied'), 'storage-failed'],
  ]
  for (const [on, fault, code] of cases) {
    const { fake, open } = await start(t)
    fake.script({ on, fault })
    const timeouts = { idleMs: 500 }
    await t.rejects(open({ timeouts }), { name: 'RegistryError', code }, `${on} ${fault.kind}`)
    t.equal(fake.bucket.objects.size + fake.bucket.uploads.size, 0, 'nothing is left')
    t.equal(fake.underWay, 0)
  }
  const { fake, open } = await start(t)
  await t.rejects(open({ bucket: 'another' }), { code: 'storage-failed' })
  await fake.refuseConnections()
  await t.rejects(open(), { code: 'storage-unavailable' })
})

t.test('an answer that is lost while it is tried does not matter', async t => {
  const { fake, open } = await start(t)
  const operations: Operation[] = [
    'PutObject',
    'DeleteObject',
    'AbortMultipartUpload',
    'CreateMultipartUpload',
  ]
  for (const on of operations) {
    fake.script({ on, fault: { kind: 'reset', at: 'answer' }, times: 1 })
  }
  const store = await open()
  t.equal(fake.struck, operations.length)
  t.equal(fake.bucket.objects.size, 0)
  t.equal((await store.sweepStaged(later(), false)).length, 1, 'the upload that it never heard of')
  t.equal(fake.bucket.uploads.size, 0)
})
