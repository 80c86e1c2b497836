import type { Test } from 'tap'
import { newBlobKey } from '../../src/storage/blob-key.ts'
import type { BlobInfo, BlobStore } from '../../src/storage/blob-store.ts'

const bytes = (size: number, seed = 1) =>
  Uint8Array.from({ length: size }, (_, i) => (i * 31 + seed * 7 + (i >> 8)) & 255)

async function* chunks(...parts: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* parts
}

/** A body that tells whether it was closed. */
function watched(parts: readonly Uint8Array[], fail?: Error) {
  const state = { closed: false, given: 0 }
  const body = (async function* () {
    try {
      for (const part of parts) {
        state.given++
        yield part
      }
      if (fail) throw fail
    } finally {
      state.closed = true
    }
  })()
  return { state, body }
}

async function put(store: BlobStore, content: Uint8Array): Promise<string> {
  const key = newBlobKey()
  await (await store.stage(key, chunks(content))).commit()
  return key
}

async function listed(store: BlobStore, prefix = 'blobs/'): Promise<BlobInfo[]> {
  const found: BlobInfo[] = []
  for await (const blob of store.list(prefix)) found.push(blob)
  return found
}

/** Opens a store once more, as another process would; it is closed with the test. */
type Reopen = () => Promise<BlobStore>

/** The behaviour that every blob store has. `create` makes an empty one for a test. */
export function blobStoreContract(t: Test, create: (t: Test) => Promise<Reopen>): void {
  const test = (name: string, fn: (t: Test, store: BlobStore, reopen: Reopen) => Promise<void>) =>
    t.test(name, async t => {
      const reopen = await create(t)
      await fn(t, await reopen(), reopen)
    })

  for (const size of [0, 1, 4095, 65_536, 1_048_576, 1_048_577, 5_000_001]) {
    test(`${size} bytes come back as they went in`, async (t, store) => {
      const content = bytes(size)
      const key = newBlobKey()
      const staged = await store.stage(key, chunks(content))
      t.equal(staged.size, size)
      await staged.commit()
      t.equal(await store.size(key), size)
      const back = await store.read(key, { start: 0, end: size })
      t.equal(Buffer.compare(back, content), 0)
    })
  }

  test('a list leaves out what is not wanted', async (t, store) => {
    const keys = [
      await put(store, bytes(1)),
      await put(store, bytes(2)),
      await put(store, bytes(3)),
    ]
    const asked: string[] = []
    const found: string[] = []
    const isWanted = (key: string) => {
      asked.push(key)
      return key !== keys[1]
    }
    for await (const { key } of store.list('blobs/', isWanted)) found.push(key)
    t.strictSame(asked.sort(), [...keys].sort())
    t.strictSame(found.sort(), [keys[0]!, keys[2]!].sort())
  })

  test('chunks of any size are one blob', async (t, store) => {
    const content = bytes(300_000)
    const parts: Uint8Array[] = []
    for (let at = 0, n = 1; at < content.length; at += n, n = (n * 3) % 70_001) {
      parts.push(content.slice(at, at + n))
    }
    parts.splice(2, 0, new Uint8Array(0))
    const key = newBlobKey()
    await (await store.stage(key, chunks(...parts))).commit()
    const back = await store.read(key, { start: 0, end: content.length })
    t.equal(Buffer.compare(back, content), 0)
  })

  test('a chunk may be used again once the next was asked for', async (t, store) => {
    const shared = new Uint8Array(1000)
    const body = (async function* () {
      for (let i = 0; i < 5; i++) yield shared.fill(i)
    })()
    const key = newBlobKey()
    await (await store.stage(key, body)).commit()
    const back = await store.read(key, { start: 0, end: 5000 })
    for (let i = 0; i < 5; i++) t.equal(back[i * 1000 + 500], i)
  })

  test('every range is a slice, in a buffer of its own', async (t, store) => {
    const content = bytes(10_000)
    const key = await put(store, content)
    for (const [start, end] of [
      [0, 0],
      [0, 1],
      [1, 2],
      [4095, 4097],
      [9999, 10_000],
      [10_000, 10_000],
      [17, 9000],
    ] as const) {
      const back = await store.read(key, { start, end })
      t.equal(Buffer.compare(back, content.subarray(start, end)), 0, `${start}..${end}`)
      t.equal(back.buffer.byteLength, end - start, 'it may be transferred')
      const into = new Uint8Array(10_001).fill(7)
      const given = await store.read(key, { start, end }, undefined, into)
      t.equal(given.buffer, into.buffer)
      t.equal(Buffer.compare(given, back), 0)
      t.ok(
        into.subarray(end - start).every(byte => byte === 7),
        'and nothing behind it',
      )
    }
  })

  test('a range beyond the end is short, not padded', async (t, store) => {
    const key = await put(store, bytes(100))
    for (const range of [
      { start: 0, end: 101 },
      { start: 100, end: 101 },
      { start: 5000, end: 5001 },
    ]) {
      await t.rejects(store.read(key, range), { code: 'blob-short' })
    }
  })

  test('a range that is none is refused, whatever its numbers', async (t, store) => {
    const key = await put(store, bytes(100))
    for (const [start, end] of [
      [-1, 3],
      [5, 2],
      [0.5, 2],
      [0, Number.NaN],
      [0, 2 ** 53],
    ] as const) {
      const wanted = { name: 'RegistryError', code: 'storage-failed' }
      await t.rejects(store.read(key, { start, end }), wanted, `${start}..${end}`)
    }
  })

  test('a range of more than 2 GiB is short like any other', async (t, store) => {
    const key = await put(store, bytes(100))
    await t.rejects(store.read(key, { start: 0, end: 2 ** 31 + 10 }), { code: 'blob-short' })
  })

  test('a range of more than memory can hold is refused', async (t, store) => {
    const key = await put(store, bytes(100))
    // A store that asks for the size first says that the blob ends; one that makes room first says that it can't.
    const wanted = { name: 'RegistryError', code: /^(blob-short|storage-failed)$/ }
    await t.rejects(store.read(key, { start: 0, end: 2 ** 53 - 1 }), wanted)
  })

  test('a body without a chunk, or with empty ones only, is an empty blob', async (t, store) => {
    for (const parts of [[], [new Uint8Array(0)], [new Uint8Array(0), new Uint8Array(0)]]) {
      const key = newBlobKey()
      await (await store.stage(key, chunks(...parts))).commit()
      t.equal(await store.size(key), 0)
      t.equal((await store.read(key, { start: 0, end: 0 })).length, 0)
    }
  })

  test('a chunk that is part of a larger buffer is written alone', async (t, store) => {
    const whole = bytes(3_000_000)
    const parts = [whole.subarray(7, 1007), whole.subarray(5000, 2_000_001)]
    const key = newBlobKey()
    const { size, commit } = await store.stage(key, chunks(...parts))
    t.equal(size, 1000 + 1_995_001)
    await commit()
    const back = await store.read(key, { start: 0, end: size })
    t.equal(Buffer.compare(back, Buffer.concat(parts)), 0)
  })

  test('a body that fails at once leaves nothing', async (t, store) => {
    const failure = new Error('never began')
    await t.rejects(store.stage(newBlobKey(), watched([], failure).body), failure)
    t.strictSame(await store.sweepStaged(new Date(Date.now() + 60_000), true), [])
    t.strictSame(await listed(store), [])
  })

  test('with a signal aborted before, nothing of the body is asked for', async (t, store) => {
    const gone = AbortSignal.abort(new Error('gone'))
    let [asked, closed] = [0, 0]
    const body = {
      [Symbol.asyncIterator]: () => ({
        next: async () => ({ done: ++asked > 9, value: bytes(10) }),
        return: async () => ({ done: true as const, value: void closed++ }),
      }),
    }
    await t.rejects(store.stage(newBlobKey(), body, gone), { message: 'gone' })
    await t.rejects(
      (async () => store.stage('no key', body))(),
      { name: 'RegistryError' },
      'nor with a wrong key',
    )
    t.equal(asked, 0)
    t.equal(closed, 2)
    t.strictSame(await store.sweepStaged(new Date(Date.now() + 60_000), true), [])
  })

  test('a signal that aborts after the stage changes nothing', async (t, store) => {
    const abort = new AbortController()
    const key = newBlobKey()
    const staged = await store.stage(key, chunks(bytes(10)), abort.signal)
    abort.abort(new Error('late'))
    await staged.commit()
    t.equal(await store.size(key), 10)
  })

  test('one of two stages fails, the other does not notice', async (t, store) => {
    const content = bytes(2_500_000)
    const key = newBlobKey()
    const good = store.stage(key, chunks(content))
    const bad = store.stage(newBlobKey(), watched([bytes(1_500_000)], new Error('cut')).body)
    await t.rejects(bad, { message: 'cut' })
    await (await good).commit()
    const back = await store.read(key, { start: 0, end: content.length })
    t.equal(Buffer.compare(back, content), 0)
  })

  test('commits at once, all in one folder, are all there', async (t, store) => {
    const keys = Array.from({ length: 20 }, () => `blobs/ab/ab${newBlobKey().slice(-30)}`)
    await Promise.all(
      keys.map(async (key, n) => (await store.stage(key, chunks(bytes(n)))).commit()),
    )
    t.strictSame((await listed(store, 'blobs/ab/')).map(blob => blob.key).sort(), keys.sort())
  })

  test('what is staged is invisible until it is committed', async (t, store) => {
    const key = newBlobKey()
    const staged = await store.stage(key, chunks(bytes(1000)))
    t.strictSame(await listed(store), [])
    await t.rejects(store.read(key, { start: 0, end: 1 }), { code: 'blob-missing' })
    await t.rejects(store.size(key), { code: 'blob-missing' })
    await staged.commit()
    t.strictSame(
      (await listed(store)).map(blob => blob.key),
      [key],
    )
  })

  test('what is aborted leaves nothing', async (t, store) => {
    const key = newBlobKey()
    await (await store.stage(key, chunks(bytes(1000)))).abort()
    await t.rejects(store.size(key), { code: 'blob-missing' })
    t.strictSame(await store.sweepStaged(new Date(Date.now() + 60_000), true), [])
  })

  test('a body that fails leaves nothing, and its error comes through as it is', async (t, store) => {
    const failure = new TypeError('cut')
    const { body, state } = watched([bytes(100), bytes(2_000_000)], failure)
    await t.rejects(store.stage(newBlobKey(), body), failure)
    t.ok(state.closed)
    t.strictSame(await store.sweepStaged(new Date(Date.now() + 60_000), true), [])
  })

  test('an aborted signal ends a stage, closes its body and leaves nothing', async (t, store) => {
    const abort = new AbortController()
    const { body, state } = watched(Array.from({ length: 100 }, () => bytes(100_000)))
    const stopping = (async function* () {
      for await (const chunk of body) {
        yield chunk
        if (state.given === 3) abort.abort(new Error('gone'))
      }
    })()
    await t.rejects(store.stage(newBlobKey(), stopping, abort.signal), { message: 'gone' })
    t.ok(state.closed)
    t.ok(state.given < 10)
    t.strictSame(await store.sweepStaged(new Date(Date.now() + 60_000), true), [])
  })

  test('a read with an aborted signal rejects with its reason', async (t, store) => {
    const key = await put(store, bytes(100))
    const gone = AbortSignal.abort(new Error('gone'))
    await t.rejects(store.read(key, { start: 0, end: 100 }, gone), { message: 'gone' })
    t.equal((await store.read(key, { start: 0, end: 100 })).length, 100)
  })

  test('missing is said only of what is missing', async (t, store) => {
    const key = newBlobKey()
    await t.rejects(store.read(key, { start: 0, end: 1 }), { code: 'blob-missing' })
    await t.rejects(store.size(key), { code: 'blob-missing' })
  })

  test('a key that is no key is refused before anything is touched', async (t, store) => {
    for (const key of [
      '',
      'blobs/../../etc/passwd',
      '/etc/passwd',
      'blobs/00/..',
      `blobs/00/${'g'.repeat(32)}`,
      `blobs/00/${'0'.repeat(32)}/x`,
      `blobs/00/${'0'.repeat(32)}\0`,
      `staged/${'0'.repeat(32)}`,
    ]) {
      const wanted = { name: 'RegistryError' }
      await t.rejects(
        (async () => store.read(key, { start: 0, end: 1 }))(),
        wanted,
        JSON.stringify(key),
      )
      await t.rejects(
        (async () => store.stage(key, chunks(bytes(1))))(),
        wanted,
        JSON.stringify(key),
      )
      await t.rejects((async () => store.delete([key]))(), wanted, JSON.stringify(key))
    }
  })

  test('list tells size and time of all blobs, or of those with a prefix', async (t, store) => {
    const before = Date.now() - 5000
    const keys = await Promise.all([1, 2, 3, 4, 5].map(n => put(store, bytes(n * 100, n))))
    const all = await listed(store)
    t.strictSame(all.map(blob => blob.key).sort(), [...keys].sort())
    for (const { key, size, modified } of all) {
      t.equal(size, (keys.indexOf(key) + 1) * 100)
      t.ok(modified.getTime() >= before)
    }
    const [first] = keys
    t.strictSame(
      (await listed(store, first)).map(blob => blob.key),
      [first],
    )
    const folder = first!.slice(0, 'blobs/xx/'.length)
    const wanted = keys.filter(key => key.startsWith(folder)).sort()
    t.strictSame((await listed(store, folder)).map(blob => blob.key).sort(), wanted)
    t.strictSame(await listed(store, 'other/'), [])
  })

  test('delete takes what is there and does not mind what is not', async (t, store) => {
    const [one, two] = [await put(store, bytes(10)), await put(store, bytes(20))]
    await store.read(one, { start: 0, end: 10 })
    await store.delete([one, newBlobKey()])
    await t.rejects(store.read(one, { start: 0, end: 10 }), { code: 'blob-missing' })
    t.equal(await store.size(two), 20)
    await store.delete([])
    await store.delete([one])
  })

  test('a blob is gone when its delete is done, also for who read it meanwhile', async (t, store) => {
    for (let i = 0; i < 20; i++) {
      const key = await put(store, bytes(10))
      const deleted = store.delete([key])
      const reading = store.read(key, { start: 0, end: 10 }).catch(() => {})
      await Promise.all([deleted, reading])
      await t.rejects(store.read(key, { start: 0, end: 10 }), { code: 'blob-missing' })
    }
  })

  test('a blob under a key that was deleted has its own bytes', async (t, store) => {
    const key = await put(store, bytes(1000, 1))
    await store.read(key, { start: 0, end: 1000 })
    await store.delete([key])
    await (await store.stage(key, chunks(bytes(1000, 2)))).commit()
    const back = await store.read(key, { start: 0, end: 1000 })
    t.equal(Buffer.compare(back, bytes(1000, 2)), 0)
  })

  test('a delete with a wrong key among its keys says so', async (t, store) => {
    const key = await put(store, bytes(10))
    await t.rejects((async () => store.delete([key, '../../etc/passwd']))(), {
      name: 'RegistryError',
    })
  })

  test('a list may be left early', async (t, store) => {
    await Promise.all([1, 2, 3].map(n => put(store, bytes(n))))
    for await (const { size } of store.list('blobs/')) {
      t.ok(size > 0)
      break
    }
    t.equal((await listed(store)).length, 3)
  })

  test('a blob that is deleted while it is read is given in full or reported missing', async (t, store) => {
    const content = bytes(3_000_000)
    const key = await put(store, content)
    const reads = Array.from({ length: 8 }, () =>
      store.read(key, { start: 0, end: content.length }).then(
        back => Buffer.compare(back, content) === 0,
        error => error.code === 'blob-missing',
      ),
    )
    await store.delete([key])
    t.ok((await Promise.all(reads)).every(Boolean))
  })

  test('many writers and readers at once do not mix', async (t, store) => {
    const writers = Array.from({ length: 16 }, async (_, n) => {
      const content = bytes(150_000 + n, n)
      const key = await put(store, content)
      const reads = [0, 1, 2].map(i => store.read(key, { start: i * 1000, end: 150_000 + n }))
      const parts = await Promise.all(reads)
      return parts.every((part, i) => Buffer.compare(part, content.subarray(i * 1000)) === 0)
    })
    t.ok((await Promise.all(writers)).every(Boolean))
  })

  test('more blobs than files can be open are read in turn', async (t, store) => {
    const keys = await Promise.all(
      Array.from({ length: 200 }, (_, n) => put(store, bytes(50 + n, n))),
    )
    for (let round = 0; round < 3; round++) {
      const sizes = await Promise.all(
        keys.map(async (key, n) => (await store.read(key, { start: 0, end: 50 + n })).length),
      )
      t.strictSame(
        sizes,
        keys.map((_, n) => 50 + n),
      )
    }
  })

  test('a sweep takes what an ended process has staged, and a dry one only tells', async (t, store, reopen) => {
    const size = 2_000_000
    const staged = await store.stage(newBlobKey(), chunks(bytes(size)))
    const later = new Date(Date.now() + 60_000)
    t.strictSame(await store.sweepStaged(later, false), [], 'it may still be committed here')
    const next = await reopen()
    t.strictSame(await next.sweepStaged(new Date(Date.now() - 60_000), false), [], 'too young')
    const dry = await next.sweepStaged(later, true)
    t.strictSame(
      dry.map(blob => blob.size),
      [size],
    )
    const swept = await next.sweepStaged(later, false)
    t.strictSame(
      swept.map(blob => blob.key),
      dry.map(blob => blob.key),
    )
    t.strictSame(await next.sweepStaged(later, false), [])
    await staged.abort()
  })

  test('a sweep leaves what is committed', async (t, store) => {
    const key = await put(store, bytes(77))
    await store.sweepStaged(new Date(Date.now() + 60_000), false)
    t.equal(await store.size(key), 77)
  })
}
