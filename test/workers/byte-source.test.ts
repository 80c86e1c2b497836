import t from 'tap'
import { type ByteSource, retriedWhile, withRetries } from '../../src/workers/byte-source.ts'
import { sourceOf } from '../support/engine.ts'

/** Sources `0`, `1` and so on, each of which gives the next one to be tried, up to the last; `asked` lists what each was told. */
function chain(count: number) {
  const asked: { source: number; error: unknown; tries: number }[] = []
  const sources: ByteSource[] = []
  for (let i = count - 1; i >= 0; i--) {
    const next = sources[0] ?? null
    const retry: ByteSource['retry'] = async (error, tries) => {
      asked.push({ source: i, error, tries })
      return next
    }
    sources.unshift(sourceOf(() => Promise.reject(new Error('not read')), { retry }))
  }
  return { sources, asked }
}

/** Work that fails on each of these sources, and says on which it was tried. */
function failingOn(sources: readonly ByteSource[], failing: number) {
  const tried: number[] = []
  const work = async (source: ByteSource) => {
    const number = sources.indexOf(source)
    tried.push(number)
    if (number < failing) throw new Error(`source ${number}`)
    return number
  }
  return { work, tried }
}

t.test('what does not fail is done once, and nobody is asked for another source', async t => {
  const { sources, asked } = chain(2)
  const { work, tried } = failingOn(sources, 0)
  t.equal(await withRetries(sources[0]!, work), 0)
  t.strictSame([tried, asked], [[0], []])
})

t.test('each try takes what the source before it gives, and how many failed before', async t => {
  const { sources, asked } = chain(3)
  const { work, tried } = failingOn(sources, 2)
  t.equal(await withRetries(sources[0]!, work), 2)
  t.strictSame(tried, [0, 1, 2])
  t.match(asked, [
    { source: 0, error: { message: 'source 0' }, tries: 0 },
    { source: 1, error: { message: 'source 1' }, tries: 1 },
  ])
})

t.test('the error is that of the last try', async t => {
  const { sources } = chain(3)
  const { work, tried } = failingOn(sources, 3)
  await t.rejects(withRetries(sources[0]!, work), { message: 'source 2' })
  t.strictSame(tried, [0, 1, 2])
})

t.test('what throws at once, before any promise, is tried again too', async t => {
  const { sources } = chain(2)
  const work = (source: ByteSource): Promise<string> => {
    if (source === sources[0]) throw new Error('at once')
    return Promise.resolve('done')
  }
  t.equal(await withRetries(sources[0]!, work), 'done')
})

t.test('after an abort nothing is tried again', async t => {
  const { sources, asked } = chain(2)
  const abort = new AbortController()
  const work = async () => {
    abort.abort()
    throw new Error('failed while it was aborted')
  }
  const aborted = withRetries(sources[0]!, work, abort.signal)
  await t.rejects(aborted, { message: 'failed while it was aborted' })
  t.strictSame(asked, [])
})

t.test('a retry that fails itself is what the caller hears of', async t => {
  const retry = () => Promise.reject(new Error('no retry'))
  const source = sourceOf(() => Promise.reject(new Error('unread')), { retry })
  const work = () => Promise.reject(new Error('first'))
  await t.rejects(withRetries(source, work), { message: 'no retry' })
})

t.test('a read is tried again while it is worth it, at every source anew', async t => {
  for (const isAsync of [false, true]) {
    const { sources, asked } = chain(4)
    let worth = 2
    const isWorthIt = () => (isAsync ? Promise.resolve(worth-- > 0) : worth-- > 0)
    const bounded = retriedWhile(sources[0]!, isWorthIt)
    let tries = 0
    const work = async () => {
      throw new Error(`try ${tries++}`)
    }
    await t.rejects(withRetries(bounded, work), { message: 'try 2' })
    t.strictSame(
      asked.map(({ source, tries }) => [source, tries]),
      [
        [0, 0],
        [1, 1],
      ],
      'the source is not even asked where it is not worth it',
    )
  }
})

t.test('a source without a next one stays without', async t => {
  const [source] = chain(1).sources
  const bounded = retriedWhile(source!, () => true)
  t.equal(await bounded.retry(new Error('bad'), 0), null)
})

t.test('all but the retries is as the source has it', t => {
  const [source] = chain(1).sources
  const { retry, ...rest } = retriedWhile(source!, () => true)
  t.match(rest, { read: source!.read, fetch: source!.fetch, locate: source!.locate })
  t.equal(rest.checksumsOf, source!.checksumsOf)
  t.not(retry, source!.retry)
  t.end()
})
