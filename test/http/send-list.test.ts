import t from 'tap'
import { aModel, ID, listen } from '../support/servers/test-app.ts'

/** Tensors with long names, which tell when they are made into text. */
function tensorsThatTell(count: number) {
  const made = { count: 0 }
  const tensors = Array.from({ length: count }, (_, i) => ({
    name: `${'layer.'.repeat(150)}${i}`,
    dtype: 'F4',
    shape: [0, 2 ** 32],
    get size() {
      made.count++
      return 0
    },
  }))
  return { made, tensors }
}

t.test('a list of any length is made as the client takes it, and others are answered', async t => {
  const { made, tensors } = tensorsThatTell(60_000)
  const { url } = await listen(t, { tensors: async () => tensors, find: async () => aModel() })
  const answer = await fetch(`${url}/models/${ID}/tensors`)
  t.equal(answer.headers.get('content-type'), 'application/json; charset=utf-8')
  t.equal((await fetch(`${url}/models/${ID}`)).status, 200)
  t.ok(made.count < tensors.length, `${made.count} are made for a client that takes none`)
  const body = (await answer.json()) as { tensors: { name: string }[] }
  t.equal(made.count, tensors.length)
  t.equal(body.tensors.length, tensors.length)
  t.strictSame(body.tensors.at(-1), {
    name: tensors.at(-1)!.name,
    dtype: 'F4',
    shape: [0, 2 ** 32],
    size: 0,
  })
})

t.test('lists of no item, and of one more than a piece', async t => {
  const head = { id: ID, format: 2 as const, strategy: 'lossless', parentHash: 'f', storedSize: 1 }
  let tensors: { name: string; dtype: string; shape: number[]; size: number }[] = []
  const { url } = await listen(t, {
    tensors: async () => tensors,
    inspect: async () => ({ ...head, encodings: [], tensors: [] }),
  })
  const ask = async (path: string) => (await fetch(`${url}/models/${ID}/${path}`)).json()
  t.strictSame(await ask('tensors'), { tensors: [] })
  t.strictSame(await ask('inspect'), { ...head, encodings: [], tensors: [] })
  tensors = Array.from({ length: 257 }, (_, i) => ({
    name: `"${i}`,
    dtype: 'U8',
    shape: [],
    size: 1,
  }))
  t.strictSame(await ask('tensors'), { tensors })
})
